//! The known name closest to a misspelt one.

/// Returns the known name with the smallest edit distance; the first of several.
pub(super) fn nearest(name: &str, known: &[&'static str]) -> Option<&'static str> {
    known.iter().copied().min_by_key(|known| distance(name, known))
}

/// Returns the Levenshtein distance: changed, added and removed characters.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_the_one_with_the_fewest_changes() {
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("same", "same"), 0);
        assert_eq!(nearest("prot", &["path", "port", "post"]), Some("port"));
        assert_eq!(nearest("prot", &[]), None);
    }
}
