//! xsnap keeps snapshots of a machine in a content-addressed repository and brings them back exactly.
//!
//! This file is the floor plan, bottom floor first; **its order is the law: a file uses only files declared above it.**
//! A test reads it and every file's `crate::` paths.

/// Every way xsnap can fail, and the exit code each way earns.
pub mod error;

/// What stored things are called.
pub mod id;

/// What has happened so far, told to a screen, a log or a test.
pub mod progress;

/// Named objects; knows nothing of what is inside them.
pub mod storage {
    /// The contract of every storage.
    pub mod object;

    /// The outer bytes of every object.
    pub mod envelope;

    /// What a file system is, how much room it has, and how to read past its cache.
    pub mod filesystem;

    /// What an executable file says of itself.
    pub mod elf;

    /// What a repository in a folder carries so that it stands alone.
    pub mod aboard;

    /// Objects as files below one directory.
    pub mod local;

    /// Whether a medium keeps as much as it says.
    pub mod probe;
}

/// Bytes in, ids out; ids in, bytes out. No paths, no modes, no times.
pub mod blobs {
    /// Stored records to bytes and back.
    pub mod codec;

    /// The two keys, and sealing.
    pub mod seal;

    /// Where one stream is cut.
    pub mod chunker;

    /// Many blobs compressed as one.
    pub mod frame;

    /// Frames found in a pack whose table is lost.
    pub mod search;

    /// Many frames in one object.
    pub mod pack;

    /// Where each blob lies, in memory.
    pub mod index;

    /// The way in.
    pub mod writer;

    /// The way out.
    pub mod reader;
}

/// What the blobs mean.
pub mod repo {
    /// Runs of blobs and holes, and lists of them.
    pub mod content;

    /// A folder as stored.
    pub mod tree;

    /// Stored folders and contents read back as streams.
    pub mod listing;

    /// Password to keys.
    pub mod keys;

    /// The repository's own parameters.
    pub mod config;

    /// The cluster that a snapshot is of.
    pub mod cluster;

    /// One moment of one machine.
    pub mod snapshot;

    /// Choosing among snapshots, and among clusters.
    pub mod choice;

    /// Which snapshots are kept, and why.
    pub mod policy;

    /// Small objects kept as two files.
    pub mod paired;

    /// index.sqlite, a cache that travels with the repository.
    pub mod catalog;

    /// Finding a repository and getting in.
    pub mod opening;

    /// The tables of packs, read from the medium.
    pub mod tables;

    /// All snapshots: put, rewritten, forgotten.
    pub mod snapshots;

    /// Making a repository where there is none.
    pub mod init;

    /// The handle: make, open, read, write, commit.
    pub mod repository;

    /// The key slots: listed, added, removed, exchanged.
    pub mod keyring;

    /// What is recorded of snapshots: put, changed, forgotten.
    pub mod records;

    /// Where everything lies, and packs that go.
    pub mod places;

    /// What snapshots need.
    pub mod needed;

    /// Proof that everything referenced is there and whole.
    pub mod check;

    /// Which packs go, stay, or are packed anew.
    pub mod sweep;

    /// What nobody needs is given back.
    pub mod prune;

    /// What the snapshots take, each alone and together.
    pub mod usage;

    /// Proof that the medium has kept what was just written.
    pub mod readback;

    /// Snapshots brought into another repository; blobs by their ids.
    pub mod copy;
}

/// Files of this machine into trees, trees into files; could serve any Linux host.
pub mod archive {
    /// What is left out, and why.
    pub mod filter;

    /// Names of users and groups.
    pub mod accounts;

    /// Owner, mode, times, attributes: read and apply.
    pub mod metadata;

    /// Live folders by descriptor; entries made, replaced, removed.
    pub mod live;

    /// The bytes of one live file into blobs.
    pub mod content;

    /// Files that one thread reads together.
    pub mod batch;

    /// Entries in stored order into trees.
    pub mod assemble;

    /// Which folders lead to the sources.
    pub mod plan;

    /// A name that the walk has found, and where it is.
    pub mod found;

    /// Inodes with several names.
    pub mod links;

    /// The snapshot that a walk compares with.
    pub mod parent;

    /// Names of a folder, looked at before they are taken.
    pub mod ahead;

    /// The live tree in stored order.
    pub mod walk;

    /// The stretches that a file is written in.
    pub mod piece;

    /// Files of the target filled, frame after frame.
    pub mod fill;

    /// What is restored, how, and what came of it.
    pub mod request;

    /// What can only be done once all files are written.
    pub mod finish;

    /// Links, devices, pipes and sockets put in place.
    pub mod special;

    /// A snapshot into live files.
    pub mod restore;

    /// A restored tree compared with the snapshot.
    pub mod verify;

    /// What differs between two states: added, removed, changed, renamed.
    pub mod changes;

    /// Two listings side by side, and two stored states.
    pub mod compare;

    /// Live files compared with a snapshot.
    pub mod drift;

    /// Names looked for across snapshots, with the versions of each file.
    pub mod versions;

    /// A stored file as a stream, a stored folder as tar.
    pub mod dump;

    /// Live files into a snapshot.
    pub mod backup;

    /// Trees and files of two repositories that are the same.
    pub mod pairs;

    /// Snapshots of another repository cut and named anew.
    pub mod copy;

    /// A stored tree without what is lost.
    pub mod salvage;

    /// What a check finds is mended.
    pub mod repair;

    /// Where a repair looks for what is lost.
    pub mod elsewhere;
}

/// What an xCAT management node is: the only floor that has heard of xCAT.
pub mod mn {
    /// Files below a root that may be another machine's.
    pub mod inside;

    /// Programs of this machine: the only place that starts any.
    pub mod host;

    /// Programs of the administrator's around a capture or an import.
    pub mod hooks;

    /// A snapshot every night: a systemd service and timer.
    pub mod schedule;

    /// The machine that is captured.
    pub mod machine;

    /// What is mounted, what should be, and whether it answers.
    pub mod mounts;

    /// xCAT tables in memory and as CSV.
    pub mod tables;

    /// Which tables an xCAT has, by its own Schema.pm.
    pub mod schema;

    /// Tables into a folder of CSV files, counted and proved.
    pub mod csv_folder;

    /// Which database holds the tables, and how to get in.
    pub mod engine;

    /// The rows of a copied table file of SQLite.
    pub mod sqlite_rows;

    /// The table files of SQLite, copied at one moment.
    pub mod sqlite;

    /// What is asked of a database server, and what came of it.
    pub mod served;

    /// The tables that PostgreSQL holds.
    pub mod postgres;

    /// The tables that MySQL or MariaDB holds.
    pub mod mysql;

    /// The whole database into a staging folder.
    pub mod database;

    /// Network cards and their addresses.
    pub mod cards;

    /// What a machine is called, made of and cabled with.
    pub mod identity;

    /// What a package is, and a file of one.
    pub mod package;

    /// One rpm header as the databases hold it.
    pub mod header;

    /// What dpkg's books say.
    pub mod dpkg;

    /// What rpm prints, and what it tells of a file.
    pub mod printed;

    /// What rpm's databases say.
    pub mod rpm;

    /// What is installed, and what of it is xCAT.
    pub mod packages;

    /// Where packages came from, and what xCAT requires of others.
    pub mod provenance;

    /// Digests of files that were computed before.
    pub mod verified;

    /// Files that no package brings back.
    pub mod strays;

    /// Services of a machine, SELinux and firewall.
    pub mod units;

    /// The package repositories that a machine is set up with.
    pub mod repositories;

    /// Digests of packages, as their makers write them.
    pub mod digest;

    /// What an installation disc says of itself.
    pub mod disc;

    /// A place that packages lie in, and its metadata proved.
    pub mod shelf;

    /// An rpm file: its headers and its own digests.
    pub mod rpm_file;

    /// A Debian package file: its control file.
    pub mod deb_file;

    /// What a repository of rpms offers.
    pub mod index_rpm;

    /// What a repository of Debian packages offers.
    pub mod index_deb;

    /// Lists of places that offer the same repository.
    pub mod mirrors;

    /// Folders of packages: found, read, proved.
    pub mod stock;

    /// A tarball of packages, unpacked for what is wanted.
    pub mod tarball;

    /// Files fetched over http and https.
    pub mod fetch;

    /// The metadata of rpms made anew.
    pub mod metadata_rpm;

    /// The metadata of Debian packages made anew.
    pub mod metadata_deb;

    /// Where packages come from.
    pub mod origin;

    /// Where wanted packages are to be had.
    pub mod search;

    /// A folder to install from, as a snapshot holds it.
    pub mod stored;

    /// The packages that a machine can be made of again.
    pub mod supply;

    /// Whose credentials a management node needs.
    pub mod accounts;

    /// Which files a synclist sends to nodes.
    pub mod synclist;

    /// Lists that name further lists.
    pub mod included;

    /// Every file that a table names.
    pub mod named;

    /// A private folder for what is made on the way.
    pub mod staging;

    /// The rules of a capture, as data.
    pub mod profile;

    /// How much is below paths, counted by many threads.
    pub mod measured;

    /// One walk that measures, and tells what it meets.
    pub mod extent;

    /// Files that the distribution they lie in does not list.
    pub mod unlisted;

    /// What can be made again, and is left out.
    pub mod leftout;

    /// Where each part is, and what is wrong with it.
    pub mod parts;

    /// `.xsnap/manifest.json`.
    pub mod manifest;

    /// What a snapshot of a management node says of it.
    pub mod recalled;

    /// What a capture is asked for.
    pub mod options;

    /// What is captured, and why.
    pub mod capture;

    /// What was found out, as manifest and cluster.
    pub mod record;

    /// Rows of a table compared.
    pub mod rows;

    /// What differs between two management nodes.
    pub mod differences;
}

/// What makes another machine that management node.
pub mod import {
    /// The steps of an import, and why each is done.
    pub mod steps;

    /// What an import is asked for.
    pub mod asked;

    /// Which steps were begun, and how they ended.
    pub mod journal;

    /// What a snapshot holds for an import.
    pub mod brought;

    /// Files of the host and of the management node alike.
    pub mod merged;

    /// Which path of a snapshot goes where.
    pub mod placement;

    /// Files put in place so that each is the old or the new one.
    pub mod placed;

    /// The machine that becomes the management node.
    pub mod target;

    /// Other packages than the snapshot's.
    pub mod given;

    /// Which packages are installed, and the folders that they are in.
    pub mod supplied;

    /// What the package manager is shown.
    pub mod repository_files;

    /// Packages installed by the machine's own package manager.
    pub mod install;

    /// Whether the packages have made a management node.
    pub mod setup;

    /// Daemons: stopped, started, enabled.
    pub mod services;

    /// Files put in their places.
    pub mod files;

    /// What is replaced is kept, and brought back.
    pub mod undo;

    /// Captured configuration that no table explains.
    pub mod unexplained;

    /// What is asked of the database, and what came of it.
    pub mod load_asked;

    /// The database of a snapshot as it was brought.
    pub mod load_stage;

    /// Table files put in place.
    pub mod load_sqlite;

    /// Tables for a database server, whichever it is.
    pub mod load_tables;

    /// A database server spoken to by its own client programs.
    pub mod client;

    /// Rows into PostgreSQL.
    pub mod load_postgres;

    /// Rows into MySQL or MariaDB.
    pub mod load_mysql;

    /// PostgreSQL made ready for xCAT.
    pub mod ready_postgres;

    /// MySQL or MariaDB made ready for xCAT.
    pub mod ready_mysql;

    /// The last resort: tabrestore.
    pub mod load_last;

    /// The database of an import: examined, made ready, loaded, compared.
    pub mod load;

    /// What a database server held is kept, and brought back.
    pub mod undo_database;

    /// What xCAT makes anew of its tables.
    pub mod regenerate;

    /// How much room an import needs, and where.
    pub mod room;

    /// What speaks against an import.
    pub mod preflight;

    /// What holds once an import is done.
    pub mod proof;

    /// What became of an import.
    pub mod report;

    /// An import planned and done, step after step.
    pub mod run;
}
