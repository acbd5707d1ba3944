//! The key slots of an open repository: listing, adding, removing, and changing a password.
//!
//! Nothing is deleted before another slot has been read from the medium and has opened, so that there is a password that
//! opens the repository at every moment. See `format-spec/05-secrets.md`, "Changing keys".

use crate::{
    blobs::seal::Secrets,
    error::{Error, Result},
    id::ObjectName,
    repo::{
        keys::{self, Cost, Password, SlotNote},
        paired::{self, Pair},
        repository::Repository,
    },
    storage::{
        envelope::{self, Kind, Label},
        object::{Folder, unreadable_as_damage},
    },
};
use std::collections::BTreeMap;

/// A key slot as it was found.
#[derive(Debug, Clone)]
pub struct KeySlot {
    /// Its name.
    pub name: ObjectName,
    /// What could be read of it.
    pub state: SlotState,
}

/// What could be read of a key slot.
#[derive(Debug, Clone)]
pub enum SlotState {
    /// One of its files, at least, is whole.
    Whole {
        /// What opening it costs.
        cost: Cost,
        /// What was noted when it was made; nothing where it was made with the repository.
        note: Option<SlotNote>,
        /// Whether the password that was asked about opens it.
        opens: bool,
    },
    /// It opens with nothing.
    Damaged {
        /// What was found.
        why: String,
    },
    /// It was written by a newer xsnap.
    Newer {
        /// What is not known here.
        why: String,
    },
}

impl Repository {
    /// Every key slot, in the order of names, and whether a password opens it.
    ///
    /// # Errors
    /// `Usage` where nothing is encrypted; storage errors. Damage is none.
    pub fn key_slots(&self, password: &Password) -> Result<Vec<KeySlot>> {
        let state = |name: &ObjectName, pair: &Pair| {
            let body = self.slot_body(name, pair)?;
            let (cost, note) = keys::describe_slot(&body, self.secrets(), name, &Folder::Keys.object(name))?;
            Ok(SlotState::Whole { cost, note, opens: self.opens(name, &body, password)? })
        };
        let slot = |(name, pair): (&ObjectName, &Pair)| {
            let state = match state(name, pair).map_err(|e| unreadable_as_damage(self.storage().as_ref(), e)) {
                Err(e @ Error::Newer { .. }) => SlotState::Newer { why: e.to_string() },
                Err(e) if e.is_damage() => SlotState::Damaged { why: e.to_string() },
                state => state?,
            };
            Ok(KeySlot { name: name.clone(), state })
        };
        self.slots()?.iter().map(slot).collect()
    }

    /// A slot that a password opens and of which both files are whole, if there is one.
    ///
    /// # Errors
    /// `Usage` where nothing is encrypted; storage errors.
    pub fn slot_of(&self, password: &Password) -> Result<Option<ObjectName>> {
        for name in self.slots()?.into_keys() {
            match self.proves(&name, password).map_err(|e| unreadable_as_damage(self.storage().as_ref(), e)) {
                Ok(true) => return Ok(Some(name)),
                Ok(false) => {}
                Err(e) if e.is_damage() => {}
                Err(e) => return Err(e),
            }
        }
        Ok(None)
    }

    /// The one slot that a word means: its name, or the first characters of what comes after `key-`.
    ///
    /// # Errors
    /// `Usage` where it means none or several; storage errors.
    pub fn slot_named(&self, word: &str) -> Result<ObjectName> {
        let mut fitting = self.slots()?.into_keys().filter(|name| keys::names_slot(word, name));
        match (fitting.next(), fitting.next()) {
            (Some(name), None) => Ok(name),
            (None, _) => Err(Error::Usage(format!("no key slot is called {word}"))),
            (Some(_), Some(_)) => Err(Error::Usage(format!("{word} is the beginning of several key slots' names"))),
        }
    }

    /// Puts a new slot that opens with a password. On return it is there, durably, twice, and has been opened as it
    /// lies on the medium.
    ///
    /// # Errors
    /// `Usage` where others may be using the repository or nothing is encrypted; `Damaged` where the medium brings back
    /// something else; storage errors. After an error the slot may be there all the same.
    pub fn add_key(&self, password: &Password, cost: Cost, note: Option<&SlotNote>) -> Result<ObjectName> {
        self.allow_key_changes()?;
        let name = keys::draw_name()?;
        let body = keys::seal_slot(self.secrets(), password, cost, &name, note)?;
        let label = Label { kind: Kind::Key, repository: self.id(), name: name.clone() };
        paired::put(self.storage().as_ref(), Folder::Keys, &label, &body)?;
        if !self.proves(&name, password)? {
            let why = "what was written does not come back: its password does not open it";
            return Err(Error::damaged(Folder::Keys.object(&name), why));
        }
        Ok(name)
    }

    /// Deletes a slot, whole or damaged, once another has been opened with the password that stays. On return it is
    /// gone durably.
    ///
    /// # Errors
    /// `Usage` where no other slot opens with that password, so never is the last one deleted; `Newer`; storage errors.
    pub fn remove_key(&self, name: &ObjectName, stays: &Password) -> Result<()> {
        self.allow_key_changes()?;
        let slots = self.slots()?;
        let short = keys::short_slot_name(name);
        let pair = slots.get(name).ok_or_else(|| Error::Usage(format!("no key slot is called {name}")))?;
        self.refuse_newer(name, pair)?;
        for (other, pair) in slots.iter().filter(|(other, _)| *other != name) {
            if self.opens_if_whole(other, pair, stays).or_else(|e| self.damage_opens_nothing(e))? {
                return paired::delete(self.storage().as_ref(), Folder::Keys, name);
            }
        }
        Err(Error::Usage(match slots.len() {
            1 => format!("{short} is the last key slot: without it nobody could open the repository again"),
            _ => format!(
                "{short} is the only key slot that the given password opens: give another password, or change it"
            ),
        }))
    }

    /// Deletes every slot that the old password opens, once the slot `kept` has been read from both its files and has
    /// opened with the new one. On return the old password opens nothing, durably. Returns what was deleted.
    ///
    /// # Errors
    /// `Usage` where `kept` does not open with the new password, or opens with both; `Damaged` where a file of it is;
    /// storage errors. After an error the new password opens the repository, and the old one may, too.
    pub fn retire_password(&self, old: &Password, new: &Password, kept: &ObjectName) -> Result<Vec<ObjectName>> {
        self.allow_key_changes()?;
        let short = keys::short_slot_name(kept);
        if !self.proves(kept, new)? {
            return Err(Error::Usage(format!("key slot {short} does not open with the new password")));
        }
        let mut retired = Vec::new();
        for (name, pair) in &self.slots()? {
            // What cannot be read now may be read later, and open then: only what is damaged is passed over.
            if self.opens_if_whole(name, pair, old)? {
                retired.push(name.clone());
            }
        }
        if retired.contains(kept) {
            return Err(Error::Usage("the new password is the old one".into()));
        }
        retired.iter().try_for_each(|name| paired::delete(self.storage().as_ref(), Folder::Keys, name))?;
        Ok(retired)
    }

    fn slots(&self) -> Result<BTreeMap<ObjectName, Pair>> {
        if !self.is_encrypted() {
            return Err(Error::Usage("the repository is not encrypted, and so has no keys".into()));
        }
        paired::list(self.storage().as_ref(), Folder::Keys, keys::is_slot_name)
    }

    fn allow_key_changes(&self) -> Result<()> {
        if self.is_alone() {
            return Ok(());
        }
        Err(Error::Usage("keys are changed only by whoever is alone with the repository".into()))
    }

    fn slot_body(&self, name: &ObjectName, pair: &Pair) -> Result<Vec<u8>> {
        let repository = Some(self.id());
        let bytes = paired::get(self.storage().as_ref(), Folder::Keys, Kind::Key, repository, name, pair)?;
        Ok(envelope::open(&bytes, &Folder::Keys.object(name))?.1.to_vec())
    }

    /// Whether a password opens a body, and what comes out are this repository's keys.
    fn opens(&self, name: &ObjectName, body: &[u8], password: &Password) -> Result<bool> {
        let keys = |secrets: &Secrets| (secrets.seal_key(), secrets.identity());
        let opened = keys::open_slot(body, password, name, &Folder::Keys.object(name))?;
        Ok(opened.is_some_and(|secrets| keys(&secrets) == keys(self.secrets())))
    }

    /// Whether a password opens a slot; what is damaged opens with nothing.
    fn opens_if_whole(&self, name: &ObjectName, pair: &Pair, password: &Password) -> Result<bool> {
        let opened = self.slot_body(name, pair).and_then(|body| self.opens(name, &body, password));
        opened.or_else(|e| if e.is_damage() { Ok(false) } else { Err(e) })
    }

    /// What cannot be read while the medium answers is damaged, and opens with nothing.
    fn damage_opens_nothing(&self, e: Error) -> Result<bool> {
        let e = unreadable_as_damage(self.storage().as_ref(), e);
        if e.is_damage() { Ok(false) } else { Err(e) }
    }

    /// Whether a password opens a slot whose files are both whole on the medium.
    fn proves(&self, name: &ObjectName, password: &Password) -> Result<bool> {
        let (storage, repository) = (self.storage().as_ref(), Some(self.id()));
        let pair = self.slots()?.remove(name).unwrap_or_default();
        let read = |place: Folder, length_bytes: Option<u64>| {
            let missing = || Error::Missing { what: place.object(name) };
            paired::get_from(storage, place, Kind::Key, repository, name, length_bytes.ok_or_else(missing)?)
        };
        let (primary, mirror) = (read(Folder::Keys, pair.primary_bytes)?, read(Folder::Mirror, pair.mirror_bytes)?);
        let (_, body) = envelope::open(&primary, &Folder::Keys.object(name))?;
        Ok(primary == mirror && self.opens(name, body, password)?)
    }

    /// What a newer xsnap has written, and proves itself, is never deleted.
    fn refuse_newer(&self, name: &ObjectName, pair: &Pair) -> Result<()> {
        for (place, length_bytes) in [(Folder::Keys, pair.primary_bytes), (Folder::Mirror, pair.mirror_bytes)] {
            let Some(length_bytes) = length_bytes else { continue };
            match envelope::verify(self.storage().as_ref(), place, name, length_bytes).map(drop) {
                Err(e @ Error::Newer { .. }) => return Err(e),
                Err(e) => drop(self.damage_opens_nothing(e)?),
                Ok(()) => {}
            }
        }
        Ok(())
    }
}
