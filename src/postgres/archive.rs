//! The archive directory. In the tutorial's set-up only the first primary makes it, so on a promoted standby archiving fails for
//! ever and WAL fills the disk. And its command refuses a file that is there already: a server that was killed while it copied, or
//! just after, or that was rewound, archives nothing more (PostgreSQL's documentation on archive_command asks for a command that
//! succeeds when the same file is there).

use std::time::Duration;

use super::session::{PgError, Session};
use super::sql::{column, flag, literal};
use crate::core::probe::Archive;

/// What keeping the archive directory came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ArchiveKept {
    /// Archiving is off, or does not fail.
    Fine,
    /// The directory was missing and was made; the archiver tries again by itself.
    Created {
        /// Which.
        directory: String,
    },
    /// A copy of the segment was there from before a crash; the archiver goes on by itself.
    Mended {
        /// Which, and what was done.
        how: String,
    },
    /// Archiving fails and pgbaton does not know what to do.
    Failing {
        /// Why, and what to do, for people.
        advice: String,
    },
}

/// When archiving fails (`archive` is from a look just made) and `archive_command` is the plain copy of the tutorial, makes its missing
/// directory on the server. The server's own shell makes it, as it runs `archive_command`, with a path of plain
/// characters only; anything else is left to people.
///
/// # Errors
/// When the server does not answer.
pub async fn keep_archive_directory(
    session: &mut Session,
    archive: &Archive,
    budget: Duration,
) -> Result<ArchiveKept, PgError> {
    if !archive.failing() {
        return Ok(ArchiveKept::Fine);
    }
    let doing = "reading archive_command";
    let rows = session
        .run(
            doing,
            "SELECT current_setting('archive_command') AS command",
            budget,
        )
        .await?;
    let command = rows
        .first()
        .and_then(|row| column(row, "command"))
        .unwrap_or_default();
    let failed = archive.last_failed_wal.as_deref().unwrap_or("a file");
    let Some(directory) = directory_of(command) else {
        return Ok(ArchiveKept::Failing {
            advice: format!(
                "archiving of {failed} fails and WAL is kept until it works: see the server's log, put archive_command right"
            ),
        });
    };
    let doing = format!("looking for the archive directory {directory}");
    let look = format!("SELECT isdir FROM pg_stat_file({}, true)", literal(directory));
    let rows = session.run(&doing, &look, budget).await?;
    if rows.first().is_some_and(|row| flag(row, "isdir")) {
        if is_segment(failed) && session.rows(&mending(directory, failed), budget).await.is_ok() {
            let how = format!("{failed} was in {directory} from before a crash, or in part");
            return Ok(ArchiveKept::Mended { how });
        }
        return Ok(ArchiveKept::Failing {
            advice: format!(
                "archiving of {failed} to {directory} fails though the directory exists: see the server's log \
                 (disk full, rights, or another file of that name is there already)"
            ),
        });
    }
    // No rows are copied: mkdir reads nothing, so nothing is written to it.
    let order = format!(
        "COPY (SELECT 1 WHERE false) TO PROGRAM {}",
        literal(&format!("mkdir -p {directory}"))
    );
    match session.rows(&order, budget).await {
        Ok(_) => Ok(ArchiveKept::Created {
            directory: directory.to_owned(),
        }),
        Err(failure) => Ok(ArchiveKept::Failing {
            advice: format!(
                "archiving fails because {directory} is missing, and the server could not make it ({failure}): \
                 make it, owned by PostgreSQL's user"
            ),
        }),
    }
}

/// The order by which the server's own shell says to the archiver that files are archived whose copies are the same, and moves a copy of `name`
/// aside that is shorter: one that was cut off. It fails when neither lets `name` go on.
///
/// Several can be there at once: pg_rewind brings the marks of what its source had not archived yet, and this member had.
fn mending(directory: &str, name: &str) -> String {
    let script = format!(
        "a=pg_wal/archive_status; test -e $a/{name}.ready || exit 1; \
         for s in $a/*.ready; do n=$(basename $s .ready); \
         if cmp -s pg_wal/$n {directory}/$n; then mv $s $a/$n.done; fi; done; \
         test -e $a/{name}.ready || exit 0; \
         test $(wc -c <{directory}/{name}) -lt $(wc -c <pg_wal/{name}) && mv {directory}/{name} {directory}/{name}.incomplete"
    );
    // No rows are copied: the script reads nothing.
    format!("COPY (SELECT 1 WHERE false) TO PROGRAM {}", literal(&script))
}

/// Whether this is the name of a file that PostgreSQL archives: hexadecimal digits, and what follows them.
fn is_segment(name: &str) -> bool {
    let (digits, rest) = name
        .split_at_checked(24)
        .unwrap_or_else(|| name.split_at(name.len().min(8)));
    let hex = |text: &str| {
        !text.is_empty()
            && text
                .bytes()
                .all(|b| b.is_ascii_digit() || (b'A'..=b'F').contains(&b))
    };
    let backup = |rest: &str| {
        let offset = rest.strip_prefix('.').and_then(|r| r.strip_suffix(".backup"));
        offset.is_some_and(|o| o.len() == 8 && hex(o))
    };
    match digits.len() {
        24 => hex(digits) && (rest.is_empty() || rest == ".partial" || backup(rest)),
        8 => hex(digits) && rest == ".history",
        _ => false,
    }
}

/// The directory of `test ! -f DIR/%f && cp %p DIR/%f`; none for any other command or an unusual path.
fn directory_of(command: &str) -> Option<&str> {
    let words: Vec<&str> = command.split_whitespace().collect();
    let ["test", "!", "-f", tested, "&&", "cp", "%p", copied] = words.as_slice() else {
        return None;
    };
    let directory = copied.strip_suffix("/%f")?;
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'/' | b'.' | b'_' | b'-');
    let good = tested == copied
        && directory.starts_with('/')
        && directory.bytes().all(plain)
        && !directory
            .split('/')
            .any(|part| part == ".." || part.starts_with('-'));
    good.then_some(directory)
}

#[cfg(test)]
mod tests {
    use super::{directory_of, is_segment};

    #[test]
    fn names_of_wal_are_known_and_nothing_else() {
        for name in [
            "00000021000000000000004A",
            "00000021000000000000004A.00000570.backup",
            "000000220000000000000050.partial",
            "00000023.history",
        ] {
            assert!(is_segment(name), "{name}");
        }
        for name in [
            "",
            "00000023",
            "00000023.histor",
            "0000002g.history",
            "00000021000000000000004a",
            "00000021000000000000004A.backup",
            "00000021000000000000004A; id",
            "00000021000000000000004A/../x",
        ] {
            assert!(!is_segment(name), "{name}");
        }
    }

    #[test]
    fn only_the_plain_copy_is_understood() {
        let plain = "test ! -f /data/archive/%f && cp %p /data/archive/%f";
        assert_eq!(directory_of(plain), Some("/data/archive"));
        for other in [
            "",
            "cp %p /data/archive/%f",
            "test ! -f /data/a/%f && cp %p /data/b/%f",
            "test ! -f archive/%f && cp %p archive/%f",
            "test ! -f /data/$(id)/%f && cp %p /data/$(id)/%f",
            "test ! -f /data/../etc/%f && cp %p /data/../etc/%f",
            "test ! -f /data/-x/%f && cp %p /data/-x/%f",
            "test ! -f /a/%f && cp %p /a/%f; true",
        ] {
            assert_eq!(directory_of(other), None, "{other}");
        }
    }
}
