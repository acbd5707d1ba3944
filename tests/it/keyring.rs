//! Passwords added, taken away and exchanged: whatever happens meanwhile, one opens the repository; afterwards the right
//! ones do, and no other.

use crate::{
    faults::at_every_call,
    support::{
        crash::{Crashing, CutOff},
        plain::CHEAP,
        reference, small,
        storage::{Memory, on},
    },
};
use std::{collections::BTreeSet, sync::Arc};
use xsnap::{
    blobs::codec::{self, Extensions},
    error::{Error, Result},
    id::ObjectName,
    progress::Silent,
    repo::{
        check::{ReadData, check},
        keyring::{KeySlot, SlotState},
        keys::{self, Cost, Password, SlotNote},
        opening::Access,
        repository::Repository,
        tree::Time,
    },
    storage::{
        envelope::{self, Kind, Label},
        object::{Folder, Storage},
    },
};

const ALL: [&str; 4] = ["old", "other", "new", "never"];

fn password(text: &str) -> Password {
    Password::new(text.into())
}

fn alone(disk: &Memory, password: &str) -> Repository {
    small::open(&on(disk), Some(password), Access::Exclusive).unwrap()
}

/// An encrypted repository that two passwords open.
fn two_passwords() -> Memory {
    let disk = Memory::new();
    drop(small::init(&on(&disk), Some("old")).unwrap());
    alone(&disk, "old").add_key(&password("other"), CHEAP, None).unwrap();
    disk
}

/// The passwords that open a repository.
fn opening(disk: &Memory, case: &str) -> BTreeSet<&'static str> {
    let opens = |text: &&str| match small::open(&on(disk), Some(text), Access::Read) {
        Ok(_) => true,
        Err(Error::WrongPassword { .. }) => false,
        Err(e) => panic!("{case}: {text}: {e}"),
    };
    ALL.into_iter().filter(opens).collect()
}

fn set(passwords: &[&'static str]) -> BTreeSet<&'static str> {
    passwords.iter().copied().collect()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    Add,
    Remove,
    Exchange,
}

impl Change {
    const ALL: [Self; 3] = [Self::Add, Self::Remove, Self::Exchange];

    /// What opens the repository afterwards.
    fn leaves(self) -> BTreeSet<&'static str> {
        set(match self {
            Self::Add => &["old", "other", "new"],
            Self::Remove => &["old"],
            Self::Exchange => &["other", "new"],
        })
    }

    /// Does it, or does what an earlier attempt has left to do.
    fn make(self, storage: &Arc<dyn Storage>, held: &str, other: &ObjectName) -> Result<()> {
        let repository = small::open(storage, Some(held), Access::Exclusive)?;
        let new = || match repository.slot_of(&password("new"))? {
            Some(name) => Ok(name),
            None => repository.add_key(&password("new"), CHEAP, None),
        };
        match self {
            Self::Add => new().map(drop),
            Self::Remove => match repository.slot_named(other.as_str()) {
                Err(Error::Usage(_)) => Ok(()),
                name => repository.remove_key(&name?, &password("old")),
            },
            Self::Exchange => repository.retire_password(&password("old"), &password("new"), &new()?).map(drop),
        }
    }

    /// What must hold however far it has come.
    fn holds_on_the_way(self, disk: &Memory, case: &str) -> BTreeSet<&'static str> {
        let open = opening(disk, case);
        match self {
            Self::Add => assert!(open.is_superset(&set(&["old", "other"])), "{case}: {open:?}"),
            Self::Remove => assert!(open.contains("old"), "{case}: {open:?}"),
            Self::Exchange => {
                assert!(open.contains("other"), "{case}: {open:?}");
                assert!(open.contains("old") || open.contains("new"), "{case}: {open:?}");
            }
        }
        assert!(!open.contains("never"), "{case}");
        open
    }

    /// What was begun can be ended, what was torn can be taken away, and then everything is as it should be.
    fn ends_well(self, disk: &Memory, other: &ObjectName, case: &str) {
        let open = self.holds_on_the_way(disk, case);
        let held = if open.contains("old") { "old" } else { "new" };
        self.make(&on(disk), held, other).unwrap_or_else(|e| panic!("{case}: the next attempt: {e}"));
        let held = if self == Self::Exchange { "new" } else { "old" };
        let repository = alone(disk, held);
        for slot in slots(&repository, held) {
            if let SlotState::Damaged { .. } = slot.state {
                repository.remove_key(&slot.name, &password(held)).unwrap_or_else(|e| panic!("{case}: {e}"));
            }
        }
        assert!(!check(&repository, ReadData::All, &Silent).unwrap().has_damage(), "{case}");
        drop(repository);
        assert_eq!(opening(disk, case), self.leaves(), "{case}");
        assert_eq!(disk.objects_in(Folder::Keys).len(), self.leaves().len(), "{case}: a slot for each password");
    }
}

fn slots(repository: &Repository, held: &str) -> Vec<KeySlot> {
    repository.key_slots(&password(held)).unwrap()
}

fn is_damaged(slot: &KeySlot) -> bool {
    matches!(slot.state, SlotState::Damaged { .. })
}

/// The slot that a password opens.
fn slot_of(disk: &Memory, text: &str) -> ObjectName {
    let repository = small::open(&on(disk), Some(text), Access::Read).unwrap();
    repository.slot_of(&password(text)).unwrap().unwrap()
}

/// Puts a slot, both files of it, where no repository asked for one.
fn plant(disk: &Memory, name: &str, body: &[u8]) -> ObjectName {
    let repository = small::open(&on(disk), Some("old"), Access::Read).unwrap().id();
    let name = ObjectName::parse(name).unwrap();
    for folder in [Folder::Keys, Folder::Mirror] {
        let label = Label { kind: Kind::Key, repository, name: name.clone() };
        envelope::put(disk, folder, &label, body).unwrap();
    }
    name
}

#[test]
fn a_power_cut_at_any_change_of_passwords_leaves_one_that_opens() {
    let begin = two_passwords();
    let other = slot_of(&begin, "other");
    for change in Change::ALL {
        for n in 0.. {
            let machine = Crashing::new(&begin);
            machine.crash_after(n);
            let storage: Arc<dyn Storage> = Arc::new(machine.clone());
            let done = change.make(&storage, "old", &other);
            if !machine.crashed() {
                done.unwrap();
                let disk = machine.survivors(CutOff::Undone);
                assert_eq!(opening(&disk, "undisturbed"), change.leaves(), "{change:?}");
                let least = if change == Change::Remove { 2 } else { 10 };
                assert!(n >= least, "{change:?}: only {n} changes");
                break;
            }
            assert_eq!(done.expect_err("nothing is done without power").exit_code(), 13, "{change:?} {n}");
            for cut_off in CutOff::ALL {
                change.ends_well(
                    &machine.survivors(cut_off),
                    &other,
                    &format!("{change:?} after {n} changes, {cut_off:?}"),
                );
            }
        }
    }
}

#[test]
fn a_medium_that_fails_at_any_call_of_a_change_of_passwords_leaves_one_that_opens() {
    let begin = two_passwords();
    let other = slot_of(&begin, "other");
    for change in Change::ALL {
        let met = at_every_call(
            &begin,
            |storage| change.make(storage, "old", &other),
            |disk, done, case| {
                let case = format!("{change:?}, {case}");
                if done {
                    assert_eq!(opening(disk, &case), change.leaves(), "{case}: said to be done");
                }
                change.ends_well(disk, &other, &case);
            },
        );
        assert!(met > 6 * 20, "{change:?}: {met}");
    }
}

#[test]
fn the_last_slot_and_the_only_one_that_the_password_opens_are_never_removed() {
    let disk = two_passwords();
    let [old, other] = ["old", "other"].map(|text| slot_of(&disk, text));
    let repository = alone(&disk, "old");
    let refused = |name: &ObjectName, held: &str, why: &str| {
        let before = disk.objects();
        let e = repository.remove_key(name, &password(held)).unwrap_err();
        assert!(matches!(&e, Error::Usage(text) if text.contains(why)), "{e:?}");
        assert!(disk.objects() == before);
    };
    refused(&old, "old", "the only key slot that the given password opens");
    refused(&other, "never", "the only key slot");
    refused(&ObjectName::parse("key-0000").unwrap(), "old", "no key slot is called");
    // Another slot of the same password may stand for it.
    let again = repository.add_key(&password("old"), CHEAP, None).unwrap();
    repository.remove_key(&old, &password("old")).unwrap();
    refused(&again, "old", "the only key slot");
    repository.remove_key(&other, &password("old")).unwrap();
    refused(&again, "old", "the last key slot");
    drop(repository);
    assert_eq!(opening(&disk, "at the end"), set(&["old"]));
}

#[test]
fn an_old_password_opens_nothing_once_it_is_retired_however_many_slots_it_had() {
    let disk = two_passwords();
    let repository = alone(&disk, "old");
    repository.add_key(&password("old"), CHEAP, None).unwrap();
    let [old, new] = ["old", "new"].map(password);
    let unproven = repository.slot_of(&password("other")).unwrap().unwrap();
    let before = disk.objects();
    assert!(matches!(repository.retire_password(&old, &new, &unproven), Err(Error::Usage(_))));
    let same = repository.slot_of(&old).unwrap().unwrap();
    assert!(matches!(repository.retire_password(&old, &old, &same), Err(Error::Usage(_))));
    assert!(disk.objects() == before, "nothing was deleted");
    let kept = repository.add_key(&new, CHEAP, None).unwrap();
    assert_eq!(repository.retire_password(&old, &new, &kept).unwrap().len(), 2);
    drop(repository);
    assert_eq!(opening(&disk, "at the end"), set(&["other", "new"]));
}

#[test]
fn a_damaged_slot_is_listed_and_can_be_removed_and_a_newer_one_cannot() {
    let disk = two_passwords();
    let other = slot_of(&disk, "other");
    [Folder::Keys, Folder::Mirror].iter().for_each(|folder| disk.flip(*folder, &other, 80, 1));
    let newer = plant(&disk, "key-newer", b"what is to come");
    for folder in [Folder::Keys, Folder::Mirror] {
        let mut bytes = disk.bytes(folder, &newer).unwrap();
        let proven = bytes.len() - 32;
        bytes[8] = 2;
        let proof = *blake3::hash(&bytes[..proven]).as_bytes();
        bytes[proven..].copy_from_slice(&proof);
        disk.replace(folder, &newer, bytes);
    }
    let greedy = (Cost { memory_kib: 2 << 20, passes: 1, lanes: 1 }, [0_u8; 32], vec![0_u8; 60], Extensions::new());
    let greedy = plant(&disk, "key-greedy", &codec::encode(&greedy));
    let repository = alone(&disk, "old");
    let found = slots(&repository, "old");
    let states = |wanted: fn(&KeySlot) -> bool| {
        found.iter().filter(|slot| wanted(slot)).map(|slot| slot.name.clone()).collect::<BTreeSet<_>>()
    };
    assert_eq!(states(is_damaged), BTreeSet::from([other.clone(), greedy.clone()]));
    assert_eq!(states(|slot| matches!(slot.state, SlotState::Newer { .. })), BTreeSet::from([newer.clone()]));
    assert_eq!(states(|slot| matches!(slot.state, SlotState::Whole { opens: true, .. })).len(), 1);
    for name in [&other, &greedy] {
        repository.remove_key(name, &password("old")).unwrap();
    }
    let before = disk.objects();
    assert!(matches!(repository.remove_key(&newer, &password("old")), Err(Error::Newer { .. })));
    assert!(disk.objects() == before);
    assert_eq!(slots(&repository, "old").len(), 2);
}

/// Somebody who can write to the medium puts a slot there that opens with the right password, and holds other keys.
#[test]
fn a_slot_that_holds_other_keys_stands_for_no_other() {
    let disk = two_passwords();
    let old = slot_of(&disk, "old");
    let name = ObjectName::parse("key-zzzzzzzz").unwrap();
    let keys = keys::draw(None).unwrap();
    plant(&disk, name.as_str(), &keys::seal_slot(&keys, &password("old"), CHEAP, &name, None).unwrap());
    let repository = alone(&disk, "old");
    let before = disk.objects();
    assert!(matches!(repository.remove_key(&old, &password("old")), Err(Error::Usage(_))));
    assert!(matches!(repository.retire_password(&password("x"), &password("old"), &name), Err(Error::Usage(_))));
    assert!(disk.objects() == before);
    let opens = |slot: &KeySlot| matches!(slot.state, SlotState::Whole { opens: true, .. });
    assert_eq!(slots(&repository, "old").iter().filter(|slot| opens(slot)).count(), 1);
    repository.remove_key(&name, &password("old")).unwrap();
}

#[test]
fn keys_are_changed_only_by_whoever_is_alone_and_only_where_something_is_encrypted() {
    let disk = two_passwords();
    let other = slot_of(&disk, "other");
    let before = disk.objects();
    for access in [Access::Read, Access::Write] {
        let repository = small::open(&on(&disk), Some("old"), access).unwrap();
        let [old, new] = ["old", "other"].map(password);
        assert!(matches!(repository.add_key(&new, CHEAP, None), Err(Error::Usage(_))));
        assert!(matches!(repository.remove_key(&other, &old), Err(Error::Usage(_))));
        assert!(matches!(repository.retire_password(&old, &new, &other), Err(Error::Usage(_))));
        let alone = small::open(&on(&disk), Some("old"), Access::Exclusive);
        assert!(matches!(alone, Err(Error::Locked { .. })));
    }
    assert!(disk.objects() == before);
    let disk = Memory::new();
    drop(small::init(&on(&disk), None).unwrap());
    let before = disk.objects();
    let repository = small::open(&on(&disk), None, Access::Exclusive).unwrap();
    assert!(matches!(repository.key_slots(&password("x")), Err(Error::Usage(_))));
    assert!(matches!(repository.add_key(&password("x"), CHEAP, None), Err(Error::Usage(_))));
    assert!(disk.objects() == before);
}

#[test]
fn a_slot_is_called_by_the_beginning_of_its_name_if_only_one_begins_so() {
    let disk = two_passwords();
    for name in ["key-aaaa0000", "key-aaaa1111"] {
        plant(&disk, name, b"no slot");
    }
    let repository = alone(&disk, "old");
    let named = |word: &str| repository.slot_named(word).map(|name| name.to_string());
    assert_eq!(named("AAAA0").unwrap(), "key-aaaa0000");
    assert_eq!(named("key-aaaa1").unwrap(), "key-aaaa1111");
    for word in ["aaaa", "key-", "", "aaaa2", "aaaa00001"] {
        assert!(matches!(named(word), Err(Error::Usage(_))), "{word}");
    }
}

/// `05-secrets.md`, "Key slots", written here once more.
#[test]
fn a_note_is_sealed_as_the_format_says_and_read_by_nobody_else() {
    let disk = two_passwords();
    let repository = alone(&disk, "old");
    let note =
        SlotNote { time: Time { seconds: 1_700_000_000, nanoseconds: 5 }, host: b"mn1".into(), label: "night".into() };
    let name = repository.add_key(&password("new"), CHEAP, Some(&note)).unwrap();
    let whole = |slot: &KeySlot| matches!(&slot.state, SlotState::Whole { note: Some(n), .. } if *n == note);
    assert_eq!(slots(&repository, "other").iter().filter(|slot| whole(slot)).count(), 1);
    let bytes = disk.bytes(Folder::Keys, &name).unwrap();
    assert!(!bytes.windows(5).any(|window| window == b"night"), "it lies there in clear");
    let (_, body) = envelope::open(&bytes, "the slot").unwrap();
    let (_, _, _, extensions) = codec::decode::<(Cost, [u8; 32], Vec<u8>, Extensions)>(body, "the slot").unwrap();
    let [(1, sealed)] = &extensions[..] else { panic!("{extensions:?}") };
    let record = codec::encode(&((1_700_000_000_i64, 5_u32), b"mn1".to_vec(), "night".to_owned()));
    let (salt, key) = (sealed[..16].try_into().unwrap(), repository.secrets().seal_key());
    assert_eq!(*sealed, reference::seal_body(key, name.as_str(), salt, &[], &record));
    let strange = keys::draw(None).unwrap();
    assert_eq!(keys::describe_slot(body, &strange, &name, "the slot").unwrap(), (CHEAP, None));
}
