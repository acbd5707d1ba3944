//! Random damage to random objects: what check finds, and what restore still brings back.
//!
//! Each number is one damage, drawn from a seed, so that a failing one can be run again alone.

use crate::support::{
    damage::Action,
    random::Random,
    small::{Small, Version, ancestors},
    storage::Memory,
};
use std::{collections::HashSet, sync::Arc};
use xsnap::{
    progress::Silent,
    repo::{
        check::{ReadData, Report, check},
        opening::Access,
    },
    storage::object::{Folder, Storage},
};

/// How many damages are tried of each kind of repository. The long run is asked for by `XSNAP_TEST_LONG`.
fn cases() -> u64 {
    if std::env::var_os("XSNAP_TEST_LONG").is_some() { 1_000 } else { 150 }
}

#[test]
fn random_damage_is_found_and_costs_no_more_than_it_hit() {
    run(&Small::build(3, 3, None));
}

#[test]
fn random_damage_to_an_encrypted_repository_is_found_and_costs_no_more_than_it_hit() {
    run(&Small::build(3, 3, Some("secret")));
}

fn run(small: &Small) {
    let foreign = Memory::new();
    let (mut found, mut harmless, mut costly) = (0, 0, 0);
    for case in 0..cases() {
        let mut random = Random::new("damage", case);
        let disk = small.disk.snapshot();
        let what = damage(&disk, &foreign, &mut random);
        let case = format!("case {case}, {what}");
        let storage: Arc<dyn Storage> = Arc::new(disk.clone());
        let repository = small.open(&storage, Access::Read).unwrap_or_else(|e| panic!("{case}: cannot open: {e}"));
        let report = check(&repository, ReadData::All, &Silent).unwrap_or_else(|e| panic!("{case}: cannot check: {e}"));
        let lost = small.lost_frames(&disk);
        named_rightly(small, &report, &lost, &case);
        let version = random.pick(&small.versions);
        let whole = small.judge(&repository, version, &lost, &case);
        if report.has_damage() {
            found += 1;
        } else {
            let all = small.versions.iter().all(|version| small.judge(&repository, version, &lost, &case));
            assert!(whole && all, "{case}: check finds nothing and files are lost");
            harmless += 1;
        }
        costly += u64::from(!whole);
    }
    let cases = cases();
    assert!(found > cases * 3 / 4 && costly > cases / 8, "{found} found, {harmless} harmless, {costly} costly");
}

/// Flips a bit anywhere, cuts an object anywhere, or removes it. Large objects are hit as often as small ones, so that
/// every kind of object is.
fn damage(disk: &Memory, foreign: &Memory, random: &mut Random) -> String {
    let objects = disk.objects();
    let (folder, name, mut bytes) = random.pick(&objects).clone();
    let length = bytes.len();
    match random.below(8) {
        0 => Action::Delete.apply(disk, (folder, &name), foreign, random).unwrap(),
        1 => {
            bytes.truncate(random.index(length));
            let what = format!("{} cut from {length} to {} bytes", folder.object(&name), bytes.len());
            disk.replace(folder, &name, bytes);
            what
        }
        _ => {
            let (at, bit) = (random.index(length), random.below(8));
            disk.flip(folder, &name, at, 1 << bit);
            format!("bit {bit} of byte {at} of {length} of {}", folder.object(&name))
        }
    }
}

/// Check names every file that is lost, itself or the folder whose list is, and no other.
pub fn named_rightly(small: &Small, report: &Report, lost: &HashSet<(xsnap::id::ObjectName, u32)>, case: &str) {
    for version in &small.versions {
        let touched: HashSet<Vec<u8>> = touched_of(small, report, version);
        for (path, needs) in version.paths.iter().filter(|(_, needs)| !needs.is_folder) {
            let named = ancestors(path).any(|ancestor| touched.contains(ancestor));
            let is_lost = version.is_lost(path, lost);
            assert!(named || !is_lost, "{case}: check does not name {}", path.escape_ascii());
            let itself = touched.contains(path);
            assert!(is_lost || !itself, "{case}: check names {} for nothing; {needs:?}", path.escape_ascii());
        }
    }
}

fn touched_of(small: &Small, report: &Report, version: &Version) -> HashSet<Vec<u8>> {
    let own = report.touched.iter().filter(|touched| touched.snapshot == version.id);
    // A folder above the source is the source, for what is below it.
    own.map(|touched| if touched.path.starts_with(small.path()) { small.below_source(&touched.path) } else { vec![] })
        .collect()
}

#[test]
fn a_flipped_bit_in_any_byte_of_a_pack_header_costs_nothing() {
    let small = Small::build(5, 1, None);
    let packs = small.disk.objects_in(Folder::Packs);
    for (name, _) in &packs {
        for bit in 0..64 * 8 {
            let disk = small.disk.snapshot();
            disk.flip(Folder::Packs, name, bit / 8, 1 << (bit % 8));
            let storage: Arc<dyn Storage> = Arc::new(disk);
            let opened = small.open(&storage, Access::Read);
            let repository = opened.unwrap_or_else(|e| panic!("bit {bit} of {name}: {e}"));
            assert_eq!(repository.index().unwrap().len(), small.blobs, "bit {bit} of {name}");
        }
    }
}
