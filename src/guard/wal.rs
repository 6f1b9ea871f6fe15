//! Where WAL ends: reads records as PostgreSQL's own recovery does (page headers, links, checksums) until the first that is not whole.
//! Read here and not with pg_waldump, because a pledge waits for it and because WAL of several timelines can lie in one segment.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::control::{Control, u16_at, u32_at, u64_at};
use super::crc::Crc32c;
use super::timelines::{Chain, segment, with_segments};
use crate::core::types::{Lsn, Position, Timeline};

const RECORD_HEADER: u64 = 24;
const SHORT_HEADER: u64 = 24;
const LONG_HEADER: u64 = 40;
const CONTINUES: u16 = 1;
const LONG: u16 = 2;
const OVERWRITTEN: u16 = 8;
const ALL_FLAGS: u16 = 15;
/// Longer than any record that PostgreSQL writes.
const LONGEST_RECORD: u64 = 1 << 30;
/// How many pages before a hint reading begins, so that links between records prove that it began on one.
const PAGES_BEFORE_HINT: u64 = 16;

/// The end of the WAL in this PGDATA; nothing may write there meanwhile. `hint`: a location thought to be held; where it is wrong
/// the answer only takes longer.
///
/// # Errors
/// When pg_control or pg_wal cannot be read, or hold no record that recovery could begin with.
pub fn end_of_wal(pgdata: &Path, hint: Option<Lsn>) -> io::Result<Position> {
    let control = Control::read(pgdata)?;
    let pg_wal = pgdata.join("pg_wal");
    let shape = Shape::read(&pg_wal, &control)?;
    let mut best: Option<(Timeline, Lsn)> = None;
    for &timeline in with_segments(&pg_wal)?.iter().rev() {
        if best.is_some_and(|(t, _)| t > timeline) {
            break;
        }
        let Some(chain) = chain_of(&pg_wal, timeline, &control)? else {
            continue;
        };
        // What PostgreSQL itself asks of a timeline before it follows it: it must hold this server's checkpoint.
        if chain.owner(control.checkpoint) != Some(control.timeline) {
            continue;
        }
        let Some(last) = last_record(&pg_wal, &shape, &chain, control.redo, hint)? else {
            continue;
        };
        if let Some(owner) = chain.owner(last) {
            best = best.max(Some((owner, last)));
        }
    }
    best.map(|(timeline, last_record)| Position {
        timeline,
        last_record,
    })
    .ok_or_else(|| {
        io::Error::other(format!(
            "no whole record at or after {} (where recovery begins) in {}",
            control.redo,
            pg_wal.display()
        ))
    })
}

/// Where the record that begins at this position ends: where the next one would begin.
///
/// # Errors
/// When there is no whole record.
pub fn end_of_record(pgdata: &Path, position: Position) -> io::Result<Lsn> {
    let control = Control::read(pgdata)?;
    let pg_wal = pgdata.join("pg_wal");
    let shape = Shape::read(&pg_wal, &control)?;
    let none = || io::Error::other(format!("no whole record at {position} in {}", pg_wal.display()));
    let chain = chain_of(&pg_wal, position.timeline, &control)?.ok_or_else(none)?;
    let mut reader = Reader::new(&pg_wal, &shape, &chain);
    if reader.skip_header(position.last_record.0)? != Some(position.last_record.0) {
        return Err(none());
    }
    match reader.record(position.last_record.0, None)? {
        Found::Record(end) => Ok(Lsn(end)),
        Found::End | Found::Abandoned(_) => Err(none()),
    }
}

/// The chain; for a timeline whose history file was removed, itself alone when the server's checkpoint is on it.
fn chain_of(pg_wal: &Path, timeline: Timeline, control: &Control) -> io::Result<Option<Chain>> {
    let alone = || (control.timeline == timeline).then(|| Chain(vec![(timeline, Lsn(0))]));
    Ok(Chain::read(pg_wal, timeline)?.or_else(alone))
}

fn last_record(
    pg_wal: &Path,
    shape: &Shape,
    chain: &Chain,
    redo: Lsn,
    hint: Option<Lsn>,
) -> io::Result<Option<Lsn>> {
    let mut reader = Reader::new(pg_wal, shape, chain);
    if let Some(hint) = hint {
        let page = hint.0 - hint.0 % shape.page;
        let from = page.saturating_sub(PAGES_BEFORE_HINT * shape.page);
        if from > redo.0
            && let Some(start) = reader.first_record(from, page)?
        {
            // A lone record proves nothing: a recycled segment holds whole records of long ago. Two that are linked do.
            let (last, records) = reader.read_on(start)?;
            if records >= 2 {
                return Ok(last);
            }
        }
    }
    Ok(reader.read_on(redo.0)?.0)
}

/// Sizes that initdb chose, and the page version.
#[derive(Debug, Clone, Copy)]
struct Shape {
    page: u64,
    segment: u64,
    magic: u16,
    system_identifier: u64,
}

impl Shape {
    /// From the first segment that has a sound header.
    fn read(pg_wal: &Path, control: &Control) -> io::Result<Self> {
        for entry in std::fs::read_dir(pg_wal)? {
            let entry = entry?;
            if entry.file_name().to_str().and_then(segment).is_none() {
                continue;
            }
            let mut head = [0u8; 40];
            if File::open(entry.path())
                .and_then(|f| f.read_exact_at(&mut head, 0))
                .is_err()
            {
                continue;
            }
            let shape = Self {
                page: u64::from(u32_at(&head, 36)),
                segment: u64::from(u32_at(&head, 32)),
                magic: u16_at(&head, 0),
                system_identifier: u64_at(&head, 24),
            };
            let sizes = shape.page.is_power_of_two()
                && (1024..=65536).contains(&shape.page)
                && shape.segment.is_power_of_two()
                && (1 << 20..=1 << 30).contains(&shape.segment);
            let own = shape.system_identifier == control.system_identifier.0;
            if sizes && own && u16_at(&head, 2) & LONG != 0 {
                return Ok(shape);
            }
        }
        let place = pg_wal.display();
        Err(io::Error::other(format!(
            "{place} holds no segment of this server"
        )))
    }
}

/// A page that was read and found sound.
#[derive(Debug, Clone, Copy)]
struct Page {
    header: u64,
    flags: u16,
    remaining: u64,
}

/// Result of looking at one location.
enum Found {
    /// A whole record, and where the next would begin.
    Record(u64),
    /// Nothing whole.
    End,
    /// A record that was given up after a crash; reading goes on at this page.
    Abandoned(u64),
}

struct Reader<'a> {
    pg_wal: PathBuf,
    shape: &'a Shape,
    chain: &'a Chain,
    open: Option<(u64, Timeline, File)>,
    at: Option<u64>,
    page: Page,
    bytes: Vec<u8>,
}

impl<'a> Reader<'a> {
    fn new(pg_wal: &Path, shape: &'a Shape, chain: &'a Chain) -> Self {
        Self {
            pg_wal: pg_wal.to_owned(),
            shape,
            chain,
            open: None,
            at: None,
            page: Page {
                header: 0,
                flags: 0,
                remaining: 0,
            },
            bytes: vec![0; usize::try_from(shape.page).unwrap_or(8192)],
        }
    }

    /// Loads the page that begins here; false when it is not one of this WAL.
    fn load(&mut self, address: u64) -> io::Result<bool> {
        if self.at == Some(address) {
            return Ok(true);
        }
        self.at = None;
        let number = address / self.shape.segment;
        if self.open.as_ref().is_none_or(|(n, ..)| *n != number) {
            self.open = self
                .open_segment(number)?
                .map(|(timeline, file)| (number, timeline, file));
        }
        let Some((.., file)) = &self.open else {
            return Ok(false);
        };
        match file.read_exact_at(&mut self.bytes, address % self.shape.segment) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
            Err(e) => return Err(e),
        }
        let flags = u16_at(&self.bytes, 2);
        let first = address.is_multiple_of(self.shape.segment);
        let sound = u16_at(&self.bytes, 0) == self.shape.magic
            && flags & !ALL_FLAGS == 0
            && u64_at(&self.bytes, 8) == address
            && (flags & LONG != 0) == first
            && self.chain.0.iter().any(|(t, _)| t.0 == u32_at(&self.bytes, 4))
            && (!first
                || (u64_at(&self.bytes, 24) == self.shape.system_identifier
                    && u64::from(u32_at(&self.bytes, 32)) == self.shape.segment
                    && u64::from(u32_at(&self.bytes, 36)) == self.shape.page));
        if sound {
            self.at = Some(address);
            self.page = Page {
                header: if first { LONG_HEADER } else { SHORT_HEADER },
                flags,
                remaining: u64::from(u32_at(&self.bytes, 16)),
            };
        }
        Ok(sound)
    }

    /// The segment of the newest timeline that can hold it, as recovery chooses.
    fn open_segment(&self, number: u64) -> io::Result<Option<(Timeline, File)>> {
        let per_id = 0x1_0000_0000 / self.shape.segment;
        for (timeline, begin) in &self.chain.0 {
            if begin.0 / self.shape.segment > number {
                continue;
            }
            let name = format!("{:08X}{:08X}{:08X}", timeline.0, number / per_id, number % per_id);
            match File::open(self.pg_wal.join(name)) {
                Ok(file) => return Ok(Some((*timeline, file))),
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(e),
            }
        }
        Ok(None)
    }

    /// Where the first record at or after the page `from` begins; looks no further than the page `to`.
    fn first_record(&mut self, from: u64, to: u64) -> io::Result<Option<u64>> {
        let mut address = from;
        while address <= to {
            if !self.load(address)? {
                return Ok(None);
            }
            let rest = if self.page.flags & CONTINUES != 0 {
                align(self.page.remaining)
            } else {
                0
            };
            if rest < self.shape.page - self.page.header {
                return Ok(Some(address + self.page.header + rest));
            }
            address += self.shape.page;
        }
        Ok(None)
    }

    /// Reads from this record on; answers the start of the last whole one and how many there were.
    fn read_on(&mut self, start: u64) -> io::Result<(Option<Lsn>, u64)> {
        let mut next = start;
        let mut last = None;
        let mut records = 0;
        while let Some(at) = self.skip_header(next)? {
            // WAL in an older timeline's segment is that timeline's, wherever a newer one claims to begin.
            if self.open.as_ref().map(|(_, t, _)| *t) < self.chain.owner(Lsn(at)) {
                break;
            }
            match self.record(at, last)? {
                Found::Record(after) => {
                    last = Some(at);
                    records += 1;
                    next = after;
                }
                Found::Abandoned(page) if page > next => next = page,
                Found::Abandoned(_) | Found::End => break,
            }
        }
        Ok((last.map(Lsn), records))
    }

    /// The location itself, or behind the header when it is a page's beginning.
    fn skip_header(&mut self, at: u64) -> io::Result<Option<u64>> {
        let within = at % self.shape.page;
        if !self.load(at - within)? {
            return Ok(None);
        }
        Ok(match within {
            0 if self.page.flags & (CONTINUES | OVERWRITTEN) == CONTINUES => None,
            0 => Some(at + self.page.header),
            _ if within < self.page.header => None,
            _ => Some(at),
        })
    }

    fn record(&mut self, at: u64, previous: Option<u64>) -> io::Result<Found> {
        let page = self.shape.page;
        let mut within = at % page;
        let mut address = at - within;
        let length = u64::from(u32_at(&self.bytes, usize::try_from(within).unwrap_or(0)));
        if !(RECORD_HEADER..=LONGEST_RECORD).contains(&length) {
            return Ok(Found::End);
        }
        let mut header = Vec::with_capacity(24);
        let mut crc = Crc32c::default();
        let mut left = length;
        loop {
            let piece = left.min(page - within);
            let from = usize::try_from(within).unwrap_or(0);
            let bytes = &self.bytes[from..from + usize::try_from(piece).unwrap_or(0)];
            let of_header = bytes.len().min(24 - header.len());
            header.extend_from_slice(&bytes[..of_header]);
            if of_header > 0 && header.len() == 24 && !linked(&header, at, previous) {
                return Ok(Found::End);
            }
            crc.add(&bytes[of_header..]);
            left -= piece;
            within += piece;
            if left == 0 {
                break;
            }
            address += page;
            if !self.load(address)? {
                return Ok(Found::End);
            }
            if self.page.flags & OVERWRITTEN != 0 {
                return Ok(Found::Abandoned(address));
            }
            if self.page.flags & CONTINUES == 0 || self.page.remaining != left {
                return Ok(Found::End);
            }
            within = self.page.header;
        }
        crc.add(&header[..20]);
        if crc.value() != u32_at(&header, 20) {
            return Ok(Found::End);
        }
        // A switch record (resource manager 0, kind 0x40) fills its segment.
        let switch = header[17] == 0 && header[16] & 0xF0 == 0x40;
        let end = address + align(within);
        let segment = self.shape.segment;
        Ok(Found::Record(if switch {
            end.div_ceil(segment) * segment
        } else {
            end
        }))
    }
}

/// The link backwards is right: exactly to the record before, or, where that is not known, at least backwards.
fn linked(header: &[u8], at: u64, previous: Option<u64>) -> bool {
    let link = u64_at(header, 8);
    previous.map_or(link < at, |p| link == p)
}

fn align(bytes: u64) -> u64 {
    bytes.div_ceil(8) * 8
}
