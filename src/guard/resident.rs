//! Keeps the guard's resident memory to what it uses (DESIGN.md section 11: under 5 MB). Each pod pays for it, and it is counted.
//!
//! The binary is one for the guard and the sidecar, so the guard's own code lies scattered in it: starting up, an initialisation or a
//! promotion map most of the program in, and nothing ever takes clean pages of a file out again while memory is plentiful.

use std::ffi::c_void;
use std::fs;
use std::ptr::NonNull;
use std::sync::OnceLock;

use nix::sys::mman::{MmapAdvise, madvise};

/// The kernel maps up to 64 KiB around each page of a file that is touched, within one mapping. Most of that is never used here, so
/// the mappings are cut into pieces of this size.
const PIECE: usize = 32 * 1024;

/// Code and constants as they were mapped at the start: addresses and lengths in bytes.
static PARTS: OnceLock<Vec<(usize, usize)>> = OnceLock::new();

fn parts() -> &'static [(usize, usize)] {
    PARTS.get_or_init(|| {
        let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
        maps.lines().filter_map(unchanging_part_of_a_file).collect()
    })
}

/// Cuts the mappings of code and constants into pieces: every other one is kept out of core dumps, which hold no code anyway.
pub fn cut_code() {
    for (start, length) in parts() {
        for at in (PIECE..*length).step_by(2 * PIECE) {
            advise(start + at, PIECE.min(length - at), MmapAdvise::MADV_DONTDUMP);
        }
    }
}

/// Takes the pages of this program's code and constants out of this process. Those that run come back at once, out of the page
/// cache, without a disk; those of what is over do not.
pub fn shed_code() {
    for (start, length) in parts() {
        advise(*start, *length, MmapAdvise::MADV_DONTNEED);
    }
}

fn advise(start: usize, length: usize, advice: MmapAdvise) {
    let Some(address) = NonNull::<c_void>::new(std::ptr::without_provenance_mut(start)) else {
        return;
    };
    // SAFETY: code and constants are never changed by this program, so each page that is dropped is read again as it was. Data,
    // relocated tables and stacks are not touched.
    #[allow(unsafe_code)]
    let result = unsafe { madvise(address, length, advice) };
    if let Err(error) = result {
        tracing::debug!(%error, "the kernel did not take advice on pages of code");
    }
}

/// A line of /proc/PID/maps (proc(5)): `start-end perms offset dev inode path`. Some: a private mapping of a file that is code, or the
/// file's beginning, which the linker gives to constants. What lies further on and is only readable now was written to at the start.
fn unchanging_part_of_a_file(line: &str) -> Option<(usize, usize)> {
    let mut words = line.split_ascii_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let permissions = words.next()?;
    let offset = u64::from_str_radix(words.next()?, 16).ok()?;
    let inode = words.nth(1)?;
    let unchanging = permissions == "r-xp" || (permissions == "r--p" && offset == 0);
    if !unchanging || inode == "0" {
        return None;
    }
    let start = usize::from_str_radix(start, 16).ok()?;
    let end = usize::from_str_radix(end, 16).ok()?;
    Some((start, end.checked_sub(start)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_never_changes_is_shed() {
        let code = "0061a000-01100000 r-xp 00419000 fe:00 1234   /usr/bin/pgbaton";
        let (start, length) = unchanging_part_of_a_file(code).unwrap();
        assert_eq!((start, length), (0x61_a000, 0xae_6000));
        let constants = "00200000-0061a000 r--p 00000000 fe:00 1234   /usr/bin/pgbaton";
        let (start, length) = unchanging_part_of_a_file(constants).unwrap();
        assert_eq!((start, length), (0x20_0000, 0x41_a000));
        for line in [
            "01102000-0110b000 r--p 00f00000 fe:00 1234   /usr/bin/pgbaton",
            "01100000-0110b000 rw-p 00efe000 fe:00 1234   /usr/bin/pgbaton",
            "01100000-0110b000 rwxp 00efe000 fe:00 1234   /usr/bin/pgbaton",
            "01100000-0110b000 r-xs 00efe000 fe:00 1234   /usr/bin/pgbaton",
            "7ffe6b5e7000-7ffe6b5e9000 r-xp 00000000 00:00 0   [vdso]",
            "1a93f000-1a983000 rw-p 00000000 00:00 0   [heap]",
            "",
        ] {
            assert_eq!(unchanging_part_of_a_file(line), None, "{line}");
        }
    }

    #[test]
    fn code_that_was_shed_runs_on() {
        cut_code();
        for _ in 0..10 {
            shed_code();
            assert_eq!("x".repeat(3), "xxx");
        }
    }
}
