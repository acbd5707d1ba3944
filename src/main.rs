//! The binary: arguments in, exit code out.

/// The only floor that speaks to people, reads the environment, or exits.
mod cli {
    /// The words of one group of commands each.
    pub mod words {
        /// --host, --tag, --path: which snapshots.
        pub mod choice;

        /// --self, --no-self: what a repository carries.
        pub mod aboard;

        /// The words of prune.
        pub mod prune;

        /// The words of repair.
        pub mod repair;

        /// forget, tag, label, protect, unprotect.
        pub mod keep;

        /// diff, find, stats.
        pub mod compare;

        /// The words of medium.
        pub mod medium;

        /// key.
        pub mod key;

        /// completions, man.
        pub mod manual;

        /// backup without PATH, and profile.
        pub mod capture;

        /// The words of copy.
        pub mod copy;

        /// schedule, status.
        pub mod schedule;

        /// The words of import.
        pub mod import;

        /// The words of show.
        pub mod show;
    }

    /// The words a person may type.
    pub mod args;

    /// Tables, JSON, progress, errors with hints.
    pub mod render;

    /// From words to an open repository.
    pub mod session;

    /// One file for each group of commands.
    pub mod commands {

        /// completions, man, and a word to newcomers.
        pub mod manual;

        /// What a repository carries.
        pub mod aboard;

        /// init, backup.
        pub mod backup;

        /// backup of a management node; profile.
        pub mod capture;

        /// list, ls, cat, dump.
        pub mod show;

        /// restore.
        pub mod restore;

        /// check.
        pub mod check;

        /// repair.
        pub mod repair;

        /// prune.
        pub mod prune;

        /// forget, tag, label, protect, unprotect.
        pub mod keep;

        /// show.
        pub mod show_snapshot;

        /// diff of two management nodes.
        pub mod compare_nodes;

        /// diff.
        pub mod compare;

        /// find.
        pub mod find;

        /// stats.
        pub mod stats;

        /// medium.
        pub mod medium;

        /// key.
        pub mod key;

        /// copy.
        pub mod copy;

        /// schedule.
        pub mod schedule;

        /// status.
        pub mod status;

        /// import.
        pub mod import;
    }
}

use anyhow::Context;
use clap::Parser;
use cli::{
    args::{Args, Command},
    commands,
    render::Screen,
    session::Session,
};
use std::process::ExitCode;

fn main() -> ExitCode {
    if std::env::args_os().len() <= 1 {
        return ExitCode::from(commands::manual::welcome());
    }
    let args = Args::parse();
    let screen = Screen::new(&args.global);
    screen.catch_signals();
    raise_open_file_limit();
    match run(&args, &screen) {
        Ok(code) => ExitCode::from(code),
        Err(e) => ExitCode::from(screen.failure(&e)),
    }
}

/// Runs a command and returns its exit code.
fn run(args: &Args, screen: &Screen) -> anyhow::Result<u8> {
    let session = Session { global: &args.global, screen };
    let pool = rayon::ThreadPoolBuilder::new().num_threads(session.threads());
    pool.build_global().context("cannot start threads")?;
    match &args.command {
        Command::Init(words) => commands::backup::init(&session, words),
        Command::Backup(words) if words.paths.is_empty() && words.stdin.is_none() => {
            commands::capture::capture(&session, words)
        }
        Command::Backup(words) => commands::backup::backup(&session, words),
        Command::List(words) => commands::show::list(&session, words),
        Command::Show(words) => commands::show_snapshot::show(&session, words),
        Command::Ls(words) => commands::show::ls(&session, words),
        Command::Cat(words) => commands::show::cat(&session, words),
        Command::Dump(words) => commands::show::dump(&session, words),
        Command::Restore(words) => commands::restore::restore(&session, words),
        Command::Check(words) => commands::check::check(&session, words),
        Command::Repair(words) => commands::repair::repair(&session, words),
        Command::Prune(words) => commands::prune::prune(&session, words),
        Command::Copy(words) => commands::copy::copy(&session, words),
        Command::Forget(words) => commands::keep::forget(&session, words),
        Command::Tag(words) => commands::keep::tag(&session, words),
        Command::Label(words) => commands::keep::label(&session, words),
        Command::Protect(words) => commands::keep::protect(&session, words),
        Command::Unprotect(words) => commands::keep::unprotect(&session, words),
        Command::Diff(words) => commands::compare::diff(&session, words),
        Command::Find(words) => commands::find::find(&session, words),
        Command::Stats(words) => commands::stats::stats(&session, words),
        Command::Medium(words) => commands::medium::medium(&session, words),
        Command::Key(words) => commands::key::key(&session, words),
        Command::Profile(words) => commands::capture::profile(&session, words),
        Command::Import(words) => commands::import::import(&session, words),
        Command::Schedule(words) => commands::schedule::schedule(&session, words),
        Command::Status(words) => commands::status::status(&session, words),
        Command::Completions(words) => commands::manual::completions(&session, words),
        Command::Man(words) => commands::manual::man(&session, words),
    }
}

/// A deep tree is walked with one descriptor for each folder on the way.
fn raise_open_file_limit() {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let raised = rustix::process::Rlimit { current: limit.maximum, maximum: limit.maximum };
    // Without it only trees of unusual depth are out of reach, and say so.
    let _ = rustix::process::setrlimit(rustix::process::Resource::Nofile, raised);
}
