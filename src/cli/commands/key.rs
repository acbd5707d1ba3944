//! key list, key add, key remove, key passwd.

use crate::cli::{
    commands::backup::host_name,
    render::{JsonBytes, clean, count, json_bytes},
    session::{Session, now, password_of_command, password_of_file, time_text},
    words::key::{Key, KeyCommand, NewPassword},
};
use anyhow::{Context, Result, bail};
use comfy_table::{Table, presets};
use serde::Serialize;
use std::sync::Arc;
use xsnap::{
    error::Error,
    id::ObjectName,
    repo::{
        keyring::{KeySlot, SlotState},
        keys::{Cost, Password, SlotNote, short_slot_name as short},
        opening::{Access, Credentials, Presence, probe},
        repository::Repository,
    },
    storage::object::Storage,
};

/// Lists and changes the passwords that open a repository.
pub fn key(session: &Session<'_>, words: &Key) -> Result<u8> {
    let storage = session.storage()?;
    match probe(storage.as_ref())? {
        Presence::Nothing => bail!(Error::NoRepository { location: storage.location() }),
        Presence::Repository { encrypted: true } => {}
        Presence::Repository { encrypted: false } => bail!(Error::Usage(
            "the repository is not encrypted: it has no keys, and encryption cannot be added to it. Make an encrypted one \
             with `xsnap init --encrypt`, and copy the snapshots into it with `xsnap copy`"
                .into()
        )),
    }
    let password = session.password()?;
    let at = Place { session, storage, password };
    match &words.command {
        KeyCommand::List(_) => at.list(),
        KeyCommand::Add(words) => at.add(&words.new),
        KeyCommand::Remove(words) => at.remove(&words.key),
        KeyCommand::Passwd(words) => at.passwd(&words.new),
    }
}

#[derive(Serialize)]
struct JsonKey<'a> {
    message: &'static str,
    name: &'a str,
    short_name: String,
    opens: bool,
    damaged: bool,
    why: Option<&'a str>,
    memory_kib: Option<u32>,
    passes: Option<u32>,
    lanes: Option<u32>,
    time: Option<String>,
    host: Option<JsonBytes>,
    label: Option<&'a str>,
}

#[derive(Serialize)]
struct JsonKeyChange {
    message: &'static str,
    added: Option<String>,
    removed: Vec<String>,
}

/// An encrypted repository, and a password that should open it.
struct Place<'a> {
    session: &'a Session<'a>,
    storage: Arc<dyn Storage>,
    password: Password,
}

impl Place<'_> {
    fn open(&self, access: Access) -> Result<Repository> {
        self.session.open_with(Arc::clone(&self.storage), Credentials::Given(self.password.clone()), access)
    }

    fn list(&self) -> Result<u8> {
        let slots = self.open(Access::Read)?.key_slots(&self.password)?;
        if self.session.screen.is_json() {
            slots.iter().try_for_each(|slot| self.session.screen.object(&json_key(slot)))?;
            return Ok(0);
        }
        self.session.screen.line(&table(&slots))?;
        self.session.screen.say(&count(slots.len() as u64, "key slot"))?;
        Ok(0)
    }

    /// The new password. Whoever is to type it has the old one proven first, and keeps nobody from the repository
    /// meanwhile.
    fn new_password(&self, words: &NewPassword) -> Result<Password> {
        match (&words.new_password_file, &words.new_password_command) {
            (Some(path), _) => password_of_file(path),
            (None, Some(command)) => password_of_command(command),
            (None, None) => {
                drop(self.open(Access::Read)?);
                self.session.ask_new_password("New password: ")
            }
        }
    }

    fn add(&self, words: &NewPassword) -> Result<u8> {
        let new = self.new_password(words)?;
        let repository = self.open(Access::Exclusive)?;
        if let Some(name) = repository.slot_of(&new)? {
            let why = format!("that password opens the repository already, by key slot {}", short(&name));
            bail!(Error::Usage(why));
        }
        let name = put(&repository, &new, words.label.clone())?;
        self.session
            .screen
            .say(&format!("key slot {} is added: its password opens the repository, too", short(&name)))?;
        self.conclude("key add", Some(&name), &[])
    }

    fn remove(&self, word: &str) -> Result<u8> {
        let repository = self.open(Access::Exclusive)?;
        let name = match repository.slot_named(word) {
            Err(Error::Usage(why)) => bail!(Error::Usage(format!("{why}; `xsnap key list` lists them"))),
            named => named?,
        };
        repository.remove_key(&name, &self.password)?;
        self.session
            .screen
            .say(&format!("key slot {} is removed: its password opens nothing any more", short(&name)))?;
        self.conclude("key remove", None, &[name])
    }

    fn passwd(&self, words: &NewPassword) -> Result<u8> {
        let new = self.new_password(words)?;
        let repository = self.open(Access::Exclusive)?;
        // It is there already where an earlier attempt was interrupted.
        let (kept, added) = match repository.slot_of(&new)? {
            Some(name) => (name, false),
            None if words.label.is_empty() => (put(&repository, &new, self.label(&repository)?)?, true),
            None => (put(&repository, &new, words.label.clone())?, true),
        };
        let both = || {
            format!(
                "key slot {} opens with the new password, and the old password may open the repository, too; run this \
                 again to take the old one away",
                short(&kept)
            )
        };
        let retired = match repository.retire_password(&self.password, &new, &kept) {
            Err(e @ Error::Usage(_)) => bail!(e),
            retired => retired.with_context(both)?,
        };
        self.session.screen.say(&format!(
            "the password is changed: key slot {} opens with the new one, and the old one opens nothing any more ({} \
             removed)",
            short(&kept),
            count(retired.len() as u64, "key slot")
        ))?;
        for slot in repository.key_slots(&new)? {
            if let SlotState::Damaged { .. } = slot.state {
                let short = short(&slot.name);
                self.session.screen.note(&format!(
                    "key slot {short} is damaged and was left as it is: `xsnap key remove {short}` takes it away"
                ));
            }
        }
        self.conclude("key passwd", added.then_some(&kept), &retired)
    }

    /// What the slot is labelled that the old password opens.
    fn label(&self, repository: &Repository) -> Result<String> {
        let label = |slot: KeySlot| match slot.state {
            SlotState::Whole { note: Some(note), opens: true, .. } => Some(note.label),
            _ => None,
        };
        Ok(repository.key_slots(&self.password)?.into_iter().find_map(label).unwrap_or_default())
    }

    fn conclude(&self, message: &'static str, added: Option<&ObjectName>, removed: &[ObjectName]) -> Result<u8> {
        let removed = removed.iter().map(ToString::to_string).collect();
        self.session.screen.object(&JsonKeyChange { message, added: added.map(ToString::to_string), removed })?;
        Ok(0)
    }
}

fn put(repository: &Repository, password: &Password, label: String) -> Result<ObjectName> {
    let note = SlotNote { time: now(), host: host_name(), label };
    let added = repository.add_key(password, Cost::DEFAULT, Some(&note));
    added.context(
        "the old password opens the repository as before; `xsnap key list` tells whether the new one does, too",
    )
}

fn json_key(slot: &KeySlot) -> JsonKey<'_> {
    let (cost, note, opens) = match &slot.state {
        SlotState::Whole { cost, note, opens } => (Some(cost), note.as_ref(), *opens),
        _ => (None, None, false),
    };
    let why = match &slot.state {
        SlotState::Damaged { why } | SlotState::Newer { why } => Some(why.as_str()),
        SlotState::Whole { .. } => None,
    };
    JsonKey {
        message: "key",
        name: slot.name.as_str(),
        short_name: short(&slot.name),
        opens,
        damaged: matches!(slot.state, SlotState::Damaged { .. }),
        why,
        memory_kib: cost.map(|c| c.memory_kib),
        passes: cost.map(|c| c.passes),
        lanes: cost.map(|c| c.lanes),
        time: note
            .and_then(|n| jiff::Timestamp::new(n.time.seconds, i32::try_from(n.time.nanoseconds).ok()?).ok())
            .map(|t| t.to_string()),
        host: note.map(|n| json_bytes(&n.host)),
        label: note.map(|n| n.label.as_str()),
    }
}

fn table(slots: &[KeySlot]) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["", "Key", "Made", "Host", "Cost", "Label"]);
    for slot in slots {
        let short = short(&slot.name);
        let row = match &slot.state {
            SlotState::Whole { cost, note, opens } => {
                let (memory_mib, passes, lanes) = (cost.memory_kib.div_ceil(1 << 10), cost.passes, cost.lanes);
                let cost = format!("{memory_mib} MiB, passes: {passes}, lanes: {lanes}");
                let of = |text: &dyn Fn(&SlotNote) -> String| note.as_ref().map_or_else(|| "-".to_owned(), text);
                let label = note.as_ref().map(|n| clean(n.label.as_bytes())).unwrap_or_default();
                let mark = if *opens { "*" } else { "" };
                [mark.to_owned(), short, of(&|n| time_text(n.time)), of(&|n| clean(&n.host)), cost, label]
            }
            SlotState::Damaged { why } => {
                ["damaged".to_owned(), short, String::new(), String::new(), String::new(), clean(why.as_bytes())]
            }
            SlotState::Newer { why } => {
                ["newer".to_owned(), short, String::new(), String::new(), String::new(), clean(why.as_bytes())]
            }
        };
        table.add_row(row);
    }
    table.trim_fmt()
}
