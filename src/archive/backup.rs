//! Live files into a snapshot: the walk, the readers and the trees side by side, then the commit.
//!
//! ```text
//! walk ── items ──────────────────────────→ trees ── filler ─┐
//!   └──── batches of files → readers ─ outcomes ↗            ├→ writer → packs
//!                               └──────────── filler ────────┘
//! ```
//! All queues are bounded. Everything that was packed is durable before the snapshot is put.

use crate::{
    archive::{
        assemble::{Assembled, Assembler, Item},
        batch::{Job, QUEUE_LENGTH},
        content::{ContentReader, Failure, ReadFile, now},
        filter::Patterns,
        metadata::Owners,
        parent::trusted,
        plan::{Plan, View},
        walk::{WalkOptions, Walker},
    },
    blobs::{
        chunker::Chunker,
        reader::Reader,
        writer::{Added, Stream, Writer},
    },
    error::{Error, Result},
    id::{Generation, SnapshotId},
    progress::{Event, Progress},
    repo::{
        cluster::Cluster,
        content::{Content, Run, fold},
        readback::{prove_packs, prove_pair},
        repository::Repository,
        snapshot::{Problem, Problems, Snapshot},
        tree::{Entry, Metadata, Node, Owner, Stat, Time},
    },
    storage::{
        envelope::Kind,
        object::{Folder, Reserve},
    },
};
use crossbeam_channel::{Receiver, bounded};
use std::{
    io::{self, Read},
    os::fd::AsFd,
    sync::Arc,
};

/// How often the files are gone through when damage is met on the way.
const TRIES: u32 = 3;

/// How the medium is treated.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Caution {
    /// Read back what was written, past the system's cache, before it counts.
    pub verify: bool,
    /// How much of the medium is left free.
    pub reserve: Reserve,
}

/// What is backed up, and what is recorded with it.
#[derive(Debug)]
pub struct Request {
    /// Absolute paths without `.`, `..` or links on the way.
    pub sources: Vec<Vec<u8>>,
    /// Name of the machine.
    pub host: Vec<u8>,
    /// The time of the snapshot.
    pub time: Time,
    /// Words to choose by.
    pub tags: Vec<String>,
    /// A line for people.
    pub label: String,
    /// The cluster that the machine manages, if it is captured as a management node.
    pub cluster: Option<Cluster>,
    /// What is left out.
    pub exclude: Patterns,
    /// Leave the contents of tagged caches out.
    pub exclude_caches: bool,
    /// Stay on the file system of each source.
    pub one_file_system: bool,
    /// Read every file, whatever its times say.
    pub read_all: bool,
    /// Folders, by device and inode, whose contents are left out: the repository itself.
    pub skip: Vec<(u64, u64)>,
    /// Write nothing; find out what would be written.
    pub dry_run: bool,
    /// How many threads read, and how many compress.
    pub threads: usize,
    /// How the medium is treated.
    pub caution: Caution,
    /// How the machine is looked at.
    pub view: View,
}

/// Makes a snapshot of live files. On return it is durable, unless this is a dry run.
///
/// What cannot be read is reported, recorded in the snapshot and makes it incomplete; it is no error.
///
/// # Errors
/// Storage errors, `Interrupted`, `Usage` without any source that exists; `NotKept` where what was written is to be read
/// back and comes back otherwise. What was packed until then is found and used by the next backup.
pub fn backup(repository: &mut Repository, request: &Request, progress: &dyn Progress) -> Result<Snapshot> {
    let parent = parent_of(repository, request).cloned();
    if let Some(parent) = &parent {
        let counts = parent.counts;
        let entries = counts.files.saturating_add(counts.folders).saturating_add(counts.others);
        progress.tell(Event::Total { entries, bytes: counts.bytes });
    }
    let mut all_added = Added::default();
    for attempt in 1.. {
        let index = Arc::new(repository.index()?);
        let reader = repository.reader(Arc::clone(&index));
        let chunker = repository.chunker();
        let writer = repository.writer_leaving(request.caution.reserve, index, request.threads, request.dry_run)?;
        let assembled = gather(request, &writer, &chunker, parent.as_ref().map(|p| (&reader, p)), progress);
        let (assembled, added, found_damage) = settle(repository, &reader, writer, assembled, (request, progress))?;
        all_added += added;
        if !found_damage || attempt == TRIES {
            return commit(repository, request, parent.map(|p| p.id), assembled, all_added);
        }
        // Blobs that were taken for known before the damage was met may lie in it.
        progress.tell(Event::Note("damage was found in the repository: everything that is lost by it is stored again"));
    }
    Err(Error::Refused)
}

/// Makes a snapshot of one stream, as a file of this name. On return it is durable, unless this is a dry run.
///
/// # Errors
/// Storage errors, and `File` where the stream cannot be read.
pub fn backup_stream(
    repository: &mut Repository,
    request: &Request,
    name: &[u8],
    source: impl Read,
    progress: &dyn Progress,
) -> Result<Snapshot> {
    let index = Arc::new(repository.index()?);
    let reader = repository.reader(Arc::clone(&index));
    let chunker = repository.chunker();
    let writer = repository.writer_leaving(request.caution.reserve, index, request.threads, request.dry_run)?;
    let assembled = gather_stream(request, &writer, &chunker, (name, source), progress);
    let (assembled, added, _) = settle(repository, &reader, writer, assembled, (request, progress))?;
    // Whoever stopped this has stopped the other end of the pipe, too: its end is not the end of the stream.
    if progress.stop_wanted() {
        return Err(Error::Interrupted);
    }
    commit(repository, request, None, assembled, added)
}

/// The latest snapshot of the same sources of this machine, else the latest of this machine. Management nodes of several
/// clusters may have one name, and are other machines then.
fn parent_of<'a>(repository: &'a Repository, request: &Request) -> Option<&'a Snapshot> {
    let own = request.cluster.as_ref().map(|cluster| cluster.name.as_str());
    let is_other = |s: &&Snapshot| own.zip(s.cluster.as_ref()).is_some_and(|(own, of)| of.name != own);
    let of_host = || repository.snapshots().iter().rev().filter(|s| s.host == request.host && !is_other(s));
    of_host().find(|s| s.sources == request.sources).or_else(|| of_host().next())
}

/// Ends the writer whatever came of the gathering, so that nothing that was packed is lost, and marks what was found
/// damaged. Where that is wanted, proves that what was written has arrived: no snapshot ever rests on what has not.
fn settle(
    repository: &Repository,
    reader: &Reader,
    writer: Writer,
    assembled: Result<Assembled>,
    (request, progress): (&Request, &dyn Progress),
) -> Result<(Assembled, Added, bool)> {
    let finished = writer.finish();
    let bad = reader.take_bad_frames();
    repository.mark_bad(&bad)?;
    let (published, added) = match (finished, &assembled) {
        (Err(Error::Refused), Err(_)) => (Vec::new(), Added::default()),
        (finished, _) => finished?,
    };
    repository.catalogue_packs(&published)?;
    let assembled = assembled?;
    if request.caution.verify {
        prove_packs(repository, &published, progress)?;
    }
    Ok((assembled, added, !bad.is_empty()))
}

fn commit(
    repository: &mut Repository,
    request: &Request,
    parent: Option<SnapshotId>,
    assembled: Assembled,
    added: Added,
) -> Result<Snapshot> {
    let mut counts = assembled.counts;
    counts.problems = counts.problems.saturating_add(request.view.problems.len() as u64);
    let problems: Problems = request.view.problems.iter().cloned().chain(assembled.problems).collect();
    (counts.added_blobs, counts.added_raw_bytes, counts.added_stored_bytes) =
        (added.blobs, added.raw_bytes, added.stored_bytes);
    let snapshot = Snapshot {
        id: SnapshotId::random().map_err(|e| Error::file("read", "the system's random source", e))?,
        time: request.time,
        commit: 0,
        host: request.host.clone(),
        sources: request.sources.clone(),
        tags: request.tags.clone(),
        label: request.label.clone(),
        parent,
        root: assembled.root,
        root_stat: assembled.root_stat,
        counts,
        complete: counts.problems == 0,
        problems: problems.into_kept(),
        protected: false,
        program: concat!("xsnap ", env!("CARGO_PKG_VERSION")).into(),
        cluster: request.cluster.clone(),
        extensions: Vec::new(),
    };
    if request.dry_run {
        return Ok(snapshot);
    }
    let snapshot = repository.put_snapshot(snapshot)?;
    if request.caution.verify {
        prove_pair(repository, Folder::Snapshots, Kind::Snapshot, &snapshot.id.object(Generation::FIRST))?;
    }
    Ok(snapshot)
}

fn gather(
    request: &Request,
    writer: &Writer,
    chunker: &Chunker,
    parent: Option<(&Reader, &Snapshot)>,
    progress: &dyn Progress,
) -> Result<Assembled> {
    let options = WalkOptions {
        exclude: &request.exclude,
        exclude_caches: request.exclude_caches,
        one_file_system: request.one_file_system,
        read_all: request.read_all,
        skip: &request.skip,
        view: &request.view,
    };
    let plan = Plan::new(&request.sources, &request.exclude, &request.view);
    let owners = Owners::new(request.view.directory.clone());
    let (items, for_trees) = bounded::<Vec<Item>>(QUEUE_LENGTH);
    let (jobs, for_readers) = bounded::<Job>(request.threads);
    let tell = |problem: &Problem| {
        let cause = io::Error::other(problem.cause.clone());
        progress.tell(Event::Problem { path: &problem.path, verb: &problem.verb, cause: &cause });
    };
    let trust = |file: &ReadFile| trusted(&file.stat, file.began);
    std::thread::scope(|scope| {
        for _ in 0..request.threads.max(1) {
            let (data, lists, jobs) = (writer.filler(Stream::Data), writer.filler(Stream::Tree), for_readers.clone());
            let reader = ContentReader { chunker, owners: &owners, data, lists, buffer: Vec::new(), progress };
            scope.spawn(move || read_files(reader, &jobs, progress));
        }
        drop(for_readers);
        let assembler = Assembler::new(writer.filler(Stream::Tree), &tell, &trust);
        let assembled = scope.spawn(move || assembler.run(for_trees.into_iter().flatten()));
        let walker = Walker::new(&options, parent.map(|p| p.0), &owners, progress, items, jobs);
        let walked = walker.run(&plan, parent.map(|(_, p)| (&p.root, &p.root_stat)));
        let assembled = assembled.join().map_err(|_| Error::Refused)?;
        walked.and(assembled)
    })
}

/// Reads files until there are no more, then sends on what is held.
fn read_files(mut reader: ContentReader<'_>, jobs: &Receiver<Job>, progress: &dyn Progress) {
    for job in jobs {
        let mut outcomes = Vec::with_capacity(job.files.len());
        for (folder, name) in &job.files {
            let outcome = if progress.stop_wanted() {
                Err(Failure::Whole(Error::Interrupted))
            } else {
                reader.read(folder.as_fd(), name)
            };
            let bytes = outcome.as_ref().map_or(0, |file| file.size_bytes);
            progress.tell(Event::Done { entries: 1, bytes });
            outcomes.push(outcome.map(Arc::new).map_err(Arc::new));
        }
        job.finish(outcomes);
    }
    // A refusal here is met again by whoever ends the writer.
    let _ = reader.data.flush();
    let _ = reader.lists.flush();
}

fn gather_stream(
    request: &Request,
    writer: &Writer,
    chunker: &Chunker,
    (name, source): (&[u8], impl Read),
    progress: &dyn Progress,
) -> Result<Assembled> {
    let (mut data, mut lists) = (writer.filler(Stream::Data), writer.filler(Stream::Tree));
    let mut runs = Vec::new();
    let read = chunker.cut(source, u64::MAX, &mut Vec::new(), |chunk| {
        if progress.stop_wanted() {
            return Err(Failure::Whole(Error::Interrupted));
        }
        progress.tell(Event::Done { entries: 0, bytes: chunk.len() as u64 });
        runs.push(Run::Data { id: data.put(chunk)?, length_bytes: chunk.len() as u64 });
        Ok::<(), Failure>(())
    });
    let size_bytes = read.map_err(|failure| match failure {
        Failure::File(verb, cause) => Error::file(verb, "the standard input", cause),
        Failure::Whole(e) => e,
    })?;
    let content = fold(runs, |list| lists.put(list))?;
    data.flush()?;
    lists.flush()?;
    let owner = Owners::default().named(rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let metadata =
        |mode| Metadata { mode, owner: Arc::<Owner>::clone(&owner), mtime: request.time, xattrs: Arc::default() };
    let node = Node::File { size_bytes, content };
    let file = Entry {
        name: name.to_vec(),
        metadata: metadata(0o600),
        node,
        link: None,
        partial: false,
        extensions: Vec::new(),
    };
    let node = Node::Folder { content: Content::default() };
    let root =
        Entry { name: Vec::new(), metadata: metadata(0o755), node, link: None, partial: false, extensions: Vec::new() };
    let (tell, trust) = (|_: &Problem| {}, |file: &ReadFile| trusted(&file.stat, now()));
    let items = [Item::Open, Item::Whole(file, Stat::default()), Item::Close(root, Stat::default())];
    Assembler::new(writer.filler(Stream::Tree), &tell, &trust).run(items)
}
