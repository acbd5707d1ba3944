//! A stored file as a stream, a stored folder as a tar archive.
//!
//! Times with nanoseconds or before 1970, owners by name, attributes and long names go into pax records and GNU's long
//! names; what tar cannot hold (a socket) is a problem, and the archive goes on.

use crate::{
    blobs::reader::Reader,
    error::{Error, Result},
    progress::{Event, Progress},
    repo::{
        content::{Content, Run},
        listing::{Listing, Runs, listing, runs},
        tree::{Entry, Metadata, Node},
    },
};
use std::{
    collections::HashMap,
    io::{self, Read, Write},
    os::unix::ffi::OsStrExt,
};
use tar::{Builder, EntryType, Header};

/// Writes the bytes of a file, holes as zeros.
///
/// # Errors
/// `Damaged` or `Missing` where a byte is lost: what was written until then is right. `File` where writing fails.
pub fn dump_file(reader: &Reader, content: &Content, out: &mut dyn Write) -> Result<()> {
    let mut source = ContentSource::new(reader, content);
    let written = |e| Error::file("write", "the standard output", e);
    while source.fill()? {
        let (bytes, zeros) = source.take_all();
        out.write_all(&bytes).map_err(written)?;
        io::copy(&mut io::repeat(0).take(zeros), out).map_err(written)?;
    }
    Ok(())
}

/// The bytes of a content as a stream.
struct ContentSource<'a> {
    reader: &'a Reader,
    runs: Runs<'a>,
    bytes: Vec<u8>,
    at: usize,
    zeros: u64,
}

impl<'a> ContentSource<'a> {
    fn new(reader: &'a Reader, content: &Content) -> Self {
        Self { reader, runs: runs(reader, content), bytes: Vec::new(), at: 0, zeros: 0 }
    }

    /// Fetches the next run; says whether there was one.
    fn fill(&mut self) -> Result<bool> {
        match self.runs.next().transpose()? {
            None => return Ok(false),
            Some(Run::Hole { length_bytes }) => self.zeros = length_bytes,
            Some(Run::Data { id, length_bytes }) => {
                (self.bytes, self.at) = (self.reader.blob(&id)?, 0);
                if self.bytes.len() as u64 != length_bytes {
                    return Err(Error::damaged(format!("blob {id}"), "it is not as long as the file's list says"));
                }
            }
        }
        Ok(true)
    }

    fn take_all(&mut self) -> (Vec<u8>, u64) {
        self.at = 0;
        (std::mem::take(&mut self.bytes), std::mem::take(&mut self.zeros))
    }
}

impl Read for ContentSource<'_> {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        loop {
            let left = self.bytes.get(self.at..).unwrap_or_default();
            if !left.is_empty() {
                let length = left.len().min(room.len());
                room.iter_mut().zip(left).for_each(|(to, from)| *to = *from);
                self.at += length;
                return Ok(length);
            }
            if self.zeros > 0 {
                let length = usize::try_from(self.zeros).unwrap_or(usize::MAX).min(room.len());
                room.iter_mut().take(length).for_each(|to| *to = 0);
                self.zeros -= length as u64;
                return Ok(length);
            }
            if !self.fill().map_err(io::Error::other)? {
                return Ok(0);
            }
        }
    }
}

/// Writes a folder and everything below it as a tar archive. What tar cannot hold, and what is lost, is told.
///
/// # Errors
/// `File` where writing fails; storage errors that are no damage. A file that turns out damaged after its header was
/// written ends the archive, for its length is promised by then.
pub fn dump_folder(reader: &Reader, folder: &Entry, out: &mut dyn Write, progress: &dyn Progress) -> Result<()> {
    let mut dump = Dump { reader, builder: Builder::new(out), progress, first_names: HashMap::new() };
    let Node::Folder { content } = &folder.node else { return Ok(()) };
    let mut path: Vec<u8> = Vec::new();
    let mut levels: Vec<(usize, Listing<'_>)> = vec![(0, listing(reader, content, None))];
    while let Some((path_bytes, level)) = levels.last_mut() {
        path.truncate(*path_bytes);
        match level.next() {
            None => drop(levels.pop()),
            Some(Err(e)) if e.is_damage() => dump.problem(&path, "list", &io::Error::other(e)),
            Some(Err(e)) => return Err(e),
            Some(Ok((entry, _))) => {
                if progress.stop_wanted() {
                    return Err(Error::Interrupted);
                }
                if !path.is_empty() {
                    path.push(b'/');
                }
                path.extend_from_slice(&entry.name);
                dump.append(&path, &entry).map_err(|e| Error::file("write", "the tar archive", e))?;
                if let Node::Folder { content } = &entry.node {
                    levels.push((path.len(), listing(reader, content, None)));
                }
            }
        }
    }
    dump.builder.finish().map_err(|e| Error::file("write", "the tar archive", e))
}

struct Dump<'a, 'w> {
    reader: &'a Reader,
    builder: Builder<&'w mut dyn Write>,
    progress: &'a dyn Progress,
    first_names: HashMap<u64, Vec<u8>>,
}

impl Dump<'_, '_> {
    fn problem(&self, path: &[u8], verb: &str, cause: &io::Error) {
        self.progress.tell(Event::Problem { path, verb, cause });
    }

    fn append(&mut self, path: &[u8], entry: &Entry) -> io::Result<()> {
        let mut header = header(&entry.metadata);
        let name = |bytes: &[u8]| std::path::PathBuf::from(std::ffi::OsStr::from_bytes(bytes));
        let device = |header: &mut Header, (major, minor)| {
            header.set_device_major(major).and_then(|()| header.set_device_minor(minor))
        };
        if matches!(entry.node, Node::Socket) {
            self.problem(path, "store", &io::Error::other("tar has no sockets"));
            return Ok(());
        }
        self.append_pax(&entry.metadata)?;
        if let Some(link) = entry.link {
            if let Some(first) = self.first_names.get(&link) {
                header.set_entry_type(EntryType::Link);
                let first = name(first);
                return self.builder.append_link(&mut header, name(path), first);
            }
            self.first_names.insert(link, path.to_vec());
        }
        match &entry.node {
            Node::File { size_bytes, content } => {
                header.set_entry_type(EntryType::Regular);
                header.set_size(*size_bytes);
                return self.builder.append_data(&mut header, name(path), ContentSource::new(self.reader, content));
            }
            Node::Symlink { target } => {
                header.set_entry_type(EntryType::Symlink);
                // Exactly as it was written, double slashes and dots included, where the header has room for it.
                if header.set_link_name_literal(target).is_ok() {
                    return self.builder.append_data(&mut header, name(path), io::empty());
                }
                return self.builder.append_link(&mut header, name(path), name(target));
            }
            Node::Folder { .. } => header.set_entry_type(EntryType::Directory),
            Node::Fifo => header.set_entry_type(EntryType::Fifo),
            Node::CharDevice { device: numbers } => {
                header.set_entry_type(EntryType::Char);
                device(&mut header, *numbers)?;
            }
            Node::BlockDevice { device: numbers } => {
                header.set_entry_type(EntryType::Block);
                device(&mut header, *numbers)?;
            }
            Node::Socket => {}
        }
        self.builder.append_data(&mut header, name(path), io::empty())
    }

    /// What the header has no room for.
    fn append_pax(&mut self, metadata: &Metadata) -> io::Result<()> {
        let mut records: Vec<(String, Vec<u8>)> = Vec::new();
        let time = metadata.mtime;
        if time.nanoseconds != 0 || time.seconds < 0 {
            records.push(("mtime".into(), pax_time(time.seconds, time.nanoseconds).into_bytes()));
        }
        for (name, value) in metadata.xattrs.iter() {
            // Unpackers take access lists as text only.
            let list = name.strip_prefix(b"system.posix_acl_").filter(|kind| matches!(*kind, b"access" | b"default"));
            if let Some((kind, text)) = list.zip(acl_text(value)) {
                records.push((format!("SCHILY.acl.{}", String::from_utf8_lossy(kind)), text.into_bytes()));
                continue;
            }
            // The first `=` of a record ends its keyword: unpackers take it, and the sign that hides it, in this form.
            let name = String::from_utf8_lossy(name).replace('%', "%25").replace('=', "%3D");
            records.push((format!("SCHILY.xattr.{name}"), value.clone()));
        }
        if records.is_empty() {
            return Ok(());
        }
        self.builder.append_pax_extensions(records.iter().map(|(key, value)| (key.as_str(), value.as_slice())))
    }
}

/// An access list as text, from the form in which Linux keeps it; nothing where it is of a form that is not known.
fn acl_text(value: &[u8]) -> Option<String> {
    let (version, entries) = value.split_first_chunk()?;
    if u32::from_le_bytes(*version) != 2 || entries.len() % 8 != 0 {
        return None;
    }
    let one = |entry: &[u8]| {
        let (tag, rest) = entry.split_first_chunk()?;
        let (rights, id) = rest.split_first_chunk()?;
        let (rights, id) = (u16::from_le_bytes(*rights), u32::from_le_bytes(*id.first_chunk()?));
        let whom = match u16::from_le_bytes(*tag) {
            0x01 => "user:".to_owned(),
            0x02 => format!("user:{id}"),
            0x04 => "group:".to_owned(),
            0x08 => format!("group:{id}"),
            0x10 => "mask:".to_owned(),
            0x20 => "other:".to_owned(),
            _ => return None,
        };
        let right = |bit: u16, letter: char| if rights & bit == 0 { '-' } else { letter };
        Some(format!("{whom}:{}{}{}", right(4, 'r'), right(2, 'w'), right(1, 'x')))
    };
    entries.chunks_exact(8).map(one).collect::<Option<Vec<_>>>().map(|entries| entries.join(","))
}

/// Seconds with a fraction, as pax writes them, of either sign.
fn pax_time(seconds: i64, nanoseconds: u32) -> String {
    if seconds < 0 && nanoseconds > 0 {
        return format!("-{}.{:09}", -(seconds + 1), 1_000_000_000 - nanoseconds);
    }
    format!("{seconds}.{nanoseconds:09}")
}

fn header(metadata: &Metadata) -> Header {
    let mut header = Header::new_gnu();
    header.set_mode(metadata.mode);
    header.set_uid(metadata.owner.uid.into());
    header.set_gid(metadata.owner.gid.into());
    header.set_mtime(u64::try_from(metadata.mtime.seconds).unwrap_or_default());
    header.set_size(0);
    // A name that does not fit leaves the number, which is there in any case.
    let _ = header.set_username(&String::from_utf8_lossy(&metadata.owner.user));
    let _ = header.set_groupname(&String::from_utf8_lossy(&metadata.owner.group));
    header
}

#[cfg(test)]
mod tests {
    use super::pax_time;

    #[test]
    fn pax_times_before_1970_count_down_to_it() {
        assert_eq!(pax_time(-86_400, 250_000_000), "-86399.750000000");
        assert_eq!(pax_time(-1, 0), "-1.000000000");
        assert_eq!(pax_time(5, 1), "5.000000001");
    }
}
