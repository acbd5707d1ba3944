//! prune.

use crate::cli::{
    render::{count, size},
    session::Session,
    words::prune::{Limits, Prune},
};
use anyhow::Result;
use serde::Serialize;
use std::collections::BTreeSet;
use xsnap::repo::{
    opening::Access,
    prune::{PruneOptions, Pruned, prune as give_back},
    repository::Repository,
    sweep::SweepLimits,
};

#[derive(Serialize)]
struct JsonPrune {
    message: &'static str,
    dry_run: bool,
    deleted_packs: u64,
    repacked_packs: u64,
    kept_packs: u64,
    before_bytes: u64,
    after_bytes: u64,
    freed_bytes: u64,
    unused_bytes: u64,
}

/// Gives back what no snapshot needs.
pub fn prune(session: &Session<'_>, words: &Prune) -> Result<u8> {
    prune_in(session, &session.open(Access::Exclusive)?, &words.limits, words.dry_run)
}

/// Gives back what no snapshot of an open repository needs.
pub fn prune_in(session: &Session<'_>, repository: &Repository, limits: &Limits, dry_run: bool) -> Result<u8> {
    let small_bytes = limits.repack_small.then_some(repository.config().pack_bytes / 2);
    let limits = SweepLimits {
        max_unused: limits.max_unused,
        small_bytes,
        max_repack_bytes: limits.max_repack_size,
        only_damaged: false,
    };
    session.screen.begin("prune");
    let pruned = give_back(
        repository,
        &PruneOptions { damaged: BTreeSet::new(), limits, threads: session.threads(), dry_run },
        session.screen,
    );
    session.screen.end();
    conclude(session, &pruned?, dry_run)
}

fn conclude(session: &Session<'_>, pruned: &Pruned, dry_run: bool) -> Result<u8> {
    session.screen.object(&JsonPrune {
        message: "prune",
        dry_run,
        deleted_packs: pruned.deleted_packs,
        repacked_packs: pruned.repacked_packs,
        kept_packs: pruned.kept_packs,
        before_bytes: pruned.before_bytes,
        after_bytes: pruned.after_bytes,
        freed_bytes: pruned.freed_bytes(),
        unused_bytes: pruned.unused_bytes,
    })?;
    let (deleted, repacked) = (count(pruned.deleted_packs, "pack"), count(pruned.repacked_packs, "pack"));
    let (would, freed) = if dry_run { ("would be ", "about ") } else { ("", "") };
    session.screen.say(&format!("{deleted} {would}deleted, {repacked} {would}written anew"))?;
    session.screen.say(&format!(
        "{freed}{} {would}freed; the packs take {freed}{}, of which {} unused",
        size(pruned.freed_bytes()),
        size(pruned.after_bytes),
        size(pruned.unused_bytes)
    ))?;
    Ok(0)
}
