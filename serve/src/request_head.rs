//! The memory of a request's head.

use http::{HeaderMap, Request, Uri, Version};

/// Charge of a header besides its name and value, bytes. Calculated from the types: an entry of the table has 104 and
/// its place in the index 5, and a further value of the same name has 72, in a list that doubles.
const HEADER_BYTES: usize = 128;

/// The longest HTTP/1 request head in bytes after which the connection stays open. hyper keeps the buffer of a large
/// head while the connection is idle, and `CONNECTION_BYTES` covers 8 KiB. Clients' heads are below 2 KiB.
const KEPT_HEAD_LEN_BYTES_MAX: usize = 8 * 1024;

/// Returns the memory that the head of a request takes, in bytes. Its target, with a query that no service reads, may
/// be as long as all headers together. The table may have room for seven times the headers that it has, if their names
/// are chosen for it.
pub(crate) fn head_bytes(target: &Uri, headers: &HeaderMap) -> usize {
    let places = headers.capacity().max(headers.len());
    text_bytes(target, headers) + places * HEADER_BYTES
}

/// Returns the length of a request's target and headers.
fn text_bytes(target: &Uri, headers: &HeaderMap) -> usize {
    let authority = target.authority().map_or(0, |it| it.as_str().len());
    let path = target.path_and_query().map_or(0, |it| it.as_str().len());
    let lengths = headers.iter().map(|(name, value)| name.as_str().len() + value.len());
    authority + path + lengths.sum::<usize>()
}

/// Returns true if an HTTP/1 request has a head for which the connection had to make a large buffer.
pub(crate) fn has_large_head<B>(request: &Request<B>) -> bool {
    request.version() < Version::HTTP_2
        && text_bytes(request.uri(), request.headers()) > KEPT_HEAD_LEN_BYTES_MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A client chooses the part of its head that is long, and a version whose connections stay open.
    #[test]
    fn a_head_is_large_whatever_part_of_it_is_long() {
        let long = "x".repeat(KEPT_HEAD_LEN_BYTES_MAX);
        let is_large = |version, target: &str, value: &str| {
            let request = Request::get(target).version(version).header("name", value);
            has_large_head(&request.body(()).unwrap())
        };
        for version in [Version::HTTP_10, Version::HTTP_11] {
            assert!(!is_large(version, "http://host.example/a?b", "short"), "{version:?}");
            for target in [format!("/{long}"), format!("/?{long}"), format!("http://{long}/")] {
                assert!(is_large(version, &target, "short"), "{version:?}, {}", &target[..9]);
            }
            assert!(is_large(version, "/", &long), "{version:?}");
        }
        assert!(!is_large(Version::HTTP_2, "/", &long), "it has no such buffer");
    }

    #[test]
    fn every_part_of_a_head_counts() {
        let of = |target: &str| head_bytes(&target.parse().unwrap(), &HeaderMap::new());
        let of_headers = |headers: &HeaderMap| head_bytes(&"/".parse().unwrap(), headers);
        assert_eq!(of("/a.B/C"), 6);
        assert_eq!(of(&format!("/a.B/C?{}", "x".repeat(1000))), 1007);
        assert_eq!(of("http://host.example/a.B/C"), 12 + 6);
        let mut headers = HeaderMap::with_capacity(1000);
        assert!(of_headers(&headers) > 1000 * HEADER_BYTES, "the room of the table");
        let empty_bytes = of_headers(&headers);
        headers.insert("name", "value".parse().unwrap());
        assert_eq!(of_headers(&headers), empty_bytes + 9);
        let places = headers.capacity();
        for _ in 0..2 * places {
            headers.append("name", "value".parse().unwrap());
        }
        let values = 2 * places + 1;
        assert_eq!(of_headers(&headers), 1 + values * (9 + HEADER_BYTES), "values of one name");
    }
}
