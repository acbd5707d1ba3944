//! What an executable file says of itself: for which machines it is, and whether it runs without anything of the system's.
//!
//! Reads the headers that the kernel reads, of bytes that anybody may have made.

/// What an ELF executable says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Executable {
    /// The machine, as `uname -m` calls it there.
    pub machine: &'static str,
    /// It needs no loader and no library.
    pub is_static: bool,
}

/// Program headers that are looked at, and entries of the dynamic section: more than any real program has.
const MAX_HEADERS: u64 = 512;
const MAX_DYNAMIC: u64 = 4096;

const TYPE_EXECUTABLE: u64 = 2;
const TYPE_SHARED: u64 = 3;
const SEGMENT_DYNAMIC: u64 = 2;
const SEGMENT_LOADER: u64 = 3;
const TAG_NEEDED: u64 = 1;

/// Numbers of a file in its own width and order.
struct Numbers<'a> {
    bytes: &'a [u8],
    is_wide: bool,
    is_little: bool,
}

impl Numbers<'_> {
    fn at(&self, offset: u64, length: usize) -> Option<u64> {
        let start = usize::try_from(offset).ok()?;
        let bytes = self.bytes.get(start..start.checked_add(length)?)?;
        let join = |number: u64, byte: &u8| number << 8 | u64::from(*byte);
        Some(if self.is_little { bytes.iter().rev().fold(0, join) } else { bytes.iter().fold(0, join) })
    }

    fn half(&self, offset: u64) -> Option<u64> {
        self.at(offset, 2)
    }

    /// An address, at one offset in files of 64 bits and at another in those of 32.
    fn address(&self, wide: u64, narrow: u64) -> Option<u64> {
        if self.is_wide { self.at(wide, 8) } else { self.at(narrow, 4) }
    }
}

/// Reads the headers of an executable. Nothing where the bytes are no ELF executable for a machine that is known here.
pub fn executable(bytes: &[u8]) -> Option<Executable> {
    let ident = bytes.get(..16)?;
    if !ident.starts_with(b"\x7fELF") {
        return None;
    }
    let is_wide = match ident.get(4)? {
        1 => false,
        2 => true,
        _ => return None,
    };
    let is_little = match ident.get(5)? {
        1 => true,
        2 => false,
        _ => return None,
    };
    let numbers = Numbers { bytes, is_wide, is_little };
    if ![TYPE_EXECUTABLE, TYPE_SHARED].contains(&numbers.half(16)?) || numbers.address(24, 24)? == 0 {
        return None;
    }
    let machine = machine(numbers.half(18)?, is_wide, is_little)?;
    Some(Executable { machine, is_static: is_static(&numbers)? })
}

fn machine(number: u64, is_wide: bool, is_little: bool) -> Option<&'static str> {
    Some(match (number, is_wide, is_little) {
        (62, true, true) => "x86_64",
        (3, false, true) => "i686",
        (183, true, true) => "aarch64",
        (40, false, true) => "armv7l",
        (21, true, true) => "ppc64le",
        (21, true, false) => "ppc64",
        (22, true, false) => "s390x",
        (243, true, true) => "riscv64",
        _ => return None,
    })
}

/// Whether no segment names a loader and no entry of the dynamic section a library.
fn is_static(numbers: &Numbers<'_>) -> Option<bool> {
    let table = numbers.address(32, 28)?;
    let (size, count) = if numbers.is_wide { (54, 56) } else { (42, 44) };
    let (size, count) = (numbers.half(size)?, numbers.half(count)?);
    if count == 0 || count > MAX_HEADERS || size < if numbers.is_wide { 56 } else { 32 } {
        return None;
    }
    for n in 0..count {
        let header = table.checked_add(n * size)?;
        match numbers.at(header, 4)? {
            SEGMENT_LOADER => return Some(false),
            SEGMENT_DYNAMIC => {
                let offset = numbers.address(header.checked_add(8)?, header.checked_add(4)?)?;
                let length = numbers.address(header.checked_add(32)?, header.checked_add(16)?)?;
                if needs_library(numbers, offset, length)? {
                    return Some(false);
                }
            }
            _ => {}
        }
    }
    Some(true)
}

fn needs_library(numbers: &Numbers<'_>, offset: u64, length: u64) -> Option<bool> {
    let entry = if numbers.is_wide { 16 } else { 8 };
    if length / entry > MAX_DYNAMIC {
        return None;
    }
    for n in 0..length / entry {
        let at = offset.checked_add(n * entry)?;
        match numbers.address(at, at)? {
            0 => return Some(false),
            TAG_NEEDED => return Some(true),
            _ => {}
        }
    }
    Some(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A header with these program headers; each is a type, and the bytes of its segment.
    fn made(wide: bool, little: bool, number: u16, segments: &[(u32, &[u8])]) -> Vec<u8> {
        let put = |out: &mut Vec<u8>, number: u64, length: usize| {
            let bytes = number.to_le_bytes();
            let bytes = bytes[..length].iter();
            if little { out.extend(bytes) } else { out.extend(bytes.rev()) }
        };
        let address = if wide { 8 } else { 4 };
        let (head, size) = if wide { (64, 56) } else { (52, 32) };
        let mut file = b"\x7fELF".to_vec();
        file.extend([if wide { 2 } else { 1 }, if little { 1 } else { 2 }, 1]);
        file.resize(16, 0);
        for (number, length) in [(2, 2), (u64::from(number), 2), (1, 4), (0x40_0000, address), (head, address)] {
            put(&mut file, number, length);
        }
        for (number, length) in [(0, address), (0, 4), (head, 2), (size, 2), (segments.len() as u64, 2), (0, 6)] {
            put(&mut file, number, length);
        }
        let mut data = head + size * segments.len() as u64;
        for (kind, bytes) in segments {
            let start = file.len();
            put(&mut file, u64::from(*kind), 4);
            if wide {
                put(&mut file, 0, 4);
            }
            for value in [data, 0, 0, bytes.len() as u64] {
                put(&mut file, value, address);
            }
            file.resize(start + usize::try_from(size).unwrap(), 0);
            data += bytes.len() as u64;
        }
        segments.iter().for_each(|(_, bytes)| file.extend(*bytes));
        file
    }

    #[test]
    fn machine_and_need_of_a_loader_are_told_in_every_width_and_order() {
        for (wide, little, number, machine) in [
            (true, true, 62, "x86_64"),
            (true, true, 183, "aarch64"),
            (true, true, 21, "ppc64le"),
            (true, false, 21, "ppc64"),
            (true, false, 22, "s390x"),
            (false, true, 3, "i686"),
        ] {
            let of = |segments: &[(u32, &[u8])]| executable(&made(wide, little, number, segments));
            let expected = |is_static| Some(Executable { machine, is_static });
            assert_eq!(of(&[(1, b"code"), (6, b"")]), expected(true), "{machine}");
            assert_eq!(of(&[(1, b"code"), (3, b"/lib/ld.so\0")]), expected(false), "{machine}");
            let entry = if wide { 16 } else { 8 };
            let mut dynamic = vec![0; entry * 3];
            assert_eq!(of(&[(2, &dynamic)]), expected(true), "{machine}: position-independent, and static");
            let tag = if wide { 8 } else { 4 };
            dynamic[if little { 0 } else { tag - 1 }] = 1;
            assert_eq!(of(&[(2, &dynamic)]), expected(false), "{machine}: it needs a library");
        }
    }

    #[test]
    fn what_is_no_executable_or_ends_in_the_middle_is_none() {
        let whole = made(true, true, 62, &[(2, &[7; 64]), (1, b"")]);
        assert!(executable(&whole).is_some());
        for length in 0..64 + 2 * 56 {
            assert_eq!(executable(&whole[..length]), None, "{length}");
        }
        for at in 0..whole.len() {
            for bit in 0..8 {
                let mut broken = whole.clone();
                broken[at] ^= 1 << bit;
                // It must not matter what is said of it: only that something is.
                let _ = executable(&broken);
            }
        }
        for (wide, little, number) in [(true, true, 8), (false, true, 62), (true, false, 62)] {
            assert_eq!(executable(&made(wide, little, number, &[(1, b"")])), None);
        }
        assert_eq!(executable(b"#!/bin/sh\nexit 0\n"), None);
        assert_eq!(executable(&[]), None);
    }

    #[test]
    fn this_very_program_says_what_it_is() {
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let found = executable(&own).unwrap();
        assert_eq!(found.machine, rustix::system::uname().machine().to_str().unwrap());
        assert_eq!(found.is_static, cfg!(target_feature = "crt-static"));
    }
}
