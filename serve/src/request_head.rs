//! The memory of a request's head.

use http::{HeaderMap, Uri};

/// Charge of a header besides its name and value, bytes. A guess: twice an entry of the table.
const HEADER_BYTES: usize = 128;

/// Returns the memory that the head of a request takes, in bytes. Its target, with a query that no service reads, may
/// be as long as all headers together.
pub(crate) fn head_bytes(target: &Uri, headers: &HeaderMap) -> usize {
    let authority = target.authority().map_or(0, |it| it.as_str().len());
    let path = target.path_and_query().map_or(0, |it| it.as_str().len());
    let headers = headers.iter();
    let lengths = headers.map(|(name, value)| name.as_str().len() + value.len() + HEADER_BYTES);
    authority + path + lengths.sum::<usize>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_of_a_head_counts() {
        let of = |target: &str| head_bytes(&target.parse().unwrap(), &HeaderMap::new());
        assert_eq!(of("/a.B/C"), 6);
        assert_eq!(of(&format!("/a.B/C?{}", "x".repeat(1000))), 1007);
        assert_eq!(of("http://host.example/a.B/C"), 12 + 6);
        let header = ("name".parse().unwrap(), "value".parse().unwrap());
        let headers = [header].into_iter().collect();
        assert_eq!(head_bytes(&"/".parse().unwrap(), &headers), 1 + 9 + HEADER_BYTES);
    }
}
