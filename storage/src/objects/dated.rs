//! The names of manifests, which begin with the time at which they were made, and the search for the newest one.

use std::io;

use super::named::Objects;

/// Least number of digits of the time in a name, unix seconds. Chosen: names sort by time for 30,000 years.
const TIME_DIGITS_MIN: usize = 12;
/// Largest number of these digits: those of the largest 64-bit number.
const TIME_DIGITS_MAX: usize = 20;
/// Digits of the manifest's hash in a name. Chosen: 64 bits distinguish the manifests of one second.
const HASH_DIGITS: usize = 16;
/// Seconds ahead of the reader's clock from which a manifest's time counts as in the future. A guess: more than clocks
/// differ.
const LEAD_S_MAX: u64 = 24 * 60 * 60;
/// Number of unusable manifests after which a search ends. A guess: they are rare.
pub(crate) const UNUSABLE_MAX: usize = 64;
/// Number of manifests of other owners after which a search ends. A guess: the daily ones of ten owners for a year.
const OTHERS_MAX: usize = 4096;

/// The result of a search for the newest manifest that is wanted. `E` is the error of one that cannot be used.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum NewestManifest<T, E> {
    /// The newest one that is wanted.
    Found(T),
    /// Too many cannot be used. The error is that of the newest of these.
    TooManyUnusable(E),
    /// None is wanted, or too many are of other owners. The error is that of the newest one that cannot be used.
    NoneWanted(Option<E>),
}

/// Calls `read` with the names of manifests, newest first, until it returns one that is wanted. Leaves out manifests
/// from before `since_unix_s`, and those dated more than a day after `now_unix_s`.
///
/// `names` are ascending. `read` returns `None` for a manifest of another owner. Any writer of the place can fill it
/// with manifests, so the search ends after a number of them.
pub(crate) fn newest<T, E>(
    names: &[String],
    since_unix_s: u64,
    now_unix_s: u64,
    mut read: impl FnMut(&str) -> Result<Option<T>, E>,
) -> NewestManifest<T, E> {
    let (mut unusable, mut failures, mut others) = (None, 0, 0);
    for name in names.iter().rev() {
        // A manifest whose time differs from that in its name cannot be used.
        let Some(made_unix_s) = time_of(name) else { continue };
        if made_unix_s < since_unix_s || is_ahead(made_unix_s, now_unix_s) {
            continue;
        }
        match read(name) {
            Ok(Some(wanted)) => return NewestManifest::Found(wanted),
            Ok(None) => others += 1,
            Err(error) => {
                unusable = unusable.or(Some(error));
                failures += 1;
            }
        }
        if failures >= UNUSABLE_MAX
            && let Some(error) = unusable.take()
        {
            return NewestManifest::TooManyUnusable(error);
        }
        if others >= OTHERS_MAX {
            break;
        }
    }
    NewestManifest::NoneWanted(unusable)
}

/// Returns the names of the manifests in a folder, ascending. Leaves out objects whose names have another form. Reads
/// no manifest.
pub(crate) fn names(objects: &dyn Objects, folder: &str, suffix: &str) -> io::Result<Vec<String>> {
    let of_manifest = |object: &str| {
        let name = object.strip_prefix(folder)?.strip_prefix('/')?.strip_suffix(suffix)?;
        is_name(name).then(|| name.to_owned())
    };
    let listed = objects.list(folder)?;
    let mut names: Vec<_> = listed.iter().filter_map(|it| of_manifest(&it.name)).collect();
    names.sort_unstable();
    Ok(names)
}

/// Returns the name of a manifest from its time and its bytes.
pub(crate) fn name_of(made_unix_s: u64, bytes: &[u8]) -> String {
    let hash = hex::encode(blake3::hash(bytes).as_bytes());
    format!("{made_unix_s:0TIME_DIGITS_MIN$}-{}", &hash[..HASH_DIGITS])
}

/// Returns the time in a manifest's name, or `None` if it has too many digits.
pub(crate) fn time_of(name: &str) -> Option<u64> {
    name.split_once('-')?.0.parse().ok()
}

/// Returns true for names in the form of a manifest's name. None of them leads out of the folder, or has control
/// characters for a terminal.
pub(crate) fn is_name(name: &str) -> bool {
    let is_hex = |it: u8| it.is_ascii_digit() || (b'a'..=b'f').contains(&it);
    name.split_once('-').is_some_and(|(time, hash)| {
        (TIME_DIGITS_MIN..=TIME_DIGITS_MAX).contains(&time.len())
            && time.bytes().all(|it| it.is_ascii_digit())
            && hash.len() == HASH_DIGITS
            && hash.bytes().all(is_hex)
    })
}

/// Returns true for a time more than a day in the future.
pub(crate) fn is_ahead(made_unix_s: u64, now_unix_s: u64) -> bool {
    made_unix_s > now_unix_s.saturating_add(LEAD_S_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Any writer of a place can fill it with manifests, of their own or unusable.
    #[test]
    fn a_search_reads_a_bounded_number_of_manifests() {
        let names: Vec<String> = (0..10_000).map(|second| name_of(second, b"")).collect();
        let mut reads = 0;
        let found = newest(&names, 0, 10_000, |_| {
            reads += 1;
            Ok::<Option<&str>, &str>(None)
        });
        assert_eq!((found, reads), (NewestManifest::NoneWanted(None), OTHERS_MAX));
        let mut reads = 0;
        let found = newest(&names, 0, 10_000, |name| {
            reads += 1;
            Err::<Option<&str>, String>(name.to_owned())
        });
        let of_newest = names[names.len() - 1].clone();
        assert_eq!((found, reads), (NewestManifest::TooManyUnusable(of_newest), UNUSABLE_MAX));
    }

    #[test]
    fn a_search_leaves_out_what_is_too_old_or_of_the_future() {
        let names = [5, 6, 7, LEAD_S_MAX + 7, LEAD_S_MAX + 8].map(|second| name_of(second, b""));
        let mut read = Vec::new();
        let found = newest(&names, 6, 7, |name| {
            read.push(time_of(name).unwrap());
            Err::<Option<&str>, usize>(read.len())
        });
        assert_eq!(found, NewestManifest::NoneWanted(Some(1)), "the error of the newest one");
        assert_eq!(read, [LEAD_S_MAX + 7, 7, 6]);
    }
}
