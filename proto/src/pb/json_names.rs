//! Names in JSON: an object names each field once, in one of its spellings. The library's parser takes the last value,
//! and drops those before it.

use std::borrow::Cow;
use std::collections::HashSet;

/// Characters of a name that an error shows. A guess: longer than any name of the schema.
const SHOWN_CHARS_MAX: usize = 64;

/// Returns a name that an object of the text has twice; `None` if there is none. `last_seen` and `lastSeen` are one
/// name. The text is JSON in UTF-8: the result for any other text has no meaning.
pub(super) fn named_twice(json: &[u8]) -> Option<String> {
    // The names of each open object; `None` for a list.
    let mut open: Vec<Option<HashSet<Cow<'_, [u8]>>>> = Vec::new();
    let mut at = 0;
    while let Some(&byte) = json.get(at) {
        let begin = at;
        at += 1;
        match byte {
            b'{' => open.push(Some(HashSet::new())),
            b'[' => open.push(None),
            b'}' | b']' => {
                open.pop();
            }
            b'"' => {
                at += string_len(&json[at..]);
                let follows = json[at..].iter().find(|byte| !byte.is_ascii_whitespace());
                if follows == Some(&b':')
                    && let Some(Some(names)) = open.last_mut()
                    && let Some(twice) = names.replace(name_of(&json[begin..at]))
                {
                    let twice = String::from_utf8_lossy(&twice);
                    return Some(twice.chars().take(SHOWN_CHARS_MAX).collect());
                }
            }
            _ => {}
        }
    }
    None
}

/// Returns the length of a string behind its first quotation mark, with the last one.
fn string_len(json: &[u8]) -> usize {
    let mut len = 0;
    while let Some(&byte) = json.get(len) {
        match byte {
            b'"' => return len + 1,
            b'\\' => len += 2,
            _ => len += 1,
        }
    }
    json.len() // it has no end
}

/// Returns the name in a string, in lowerCamelCase as the mapping writes it. Keys of maps are read like names: those of
/// requests are numbers, which have no other spelling.
fn name_of(string: &[u8]) -> Cow<'_, [u8]> {
    let [b'"', name @ .., b'"'] = string else { return Cow::Borrowed(string) };
    if !name.iter().any(|byte| [b'\\', b'_'].contains(byte)) {
        return Cow::Borrowed(name);
    }
    let text: String = serde_json::from_slice(string).unwrap_or_default();
    let mut name = String::with_capacity(text.len());
    let mut is_first_of_word = false;
    for character in text.chars() {
        if character == '_' {
            is_first_of_word = true;
            continue;
        }
        name.push(if is_first_of_word { character.to_ascii_uppercase() } else { character });
        is_first_of_word = false;
    }
    Cow::Owned(name.into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_found_again_in_its_object_and_in_each_of_its_spellings() {
        for (json, name) in [
            (r#"{"limit":1,"limit":2}"#, "limit"),
            (r#"{"limit" : 1, "l\u0069mit" : 2}"#, "limit"),
            (r#"{"last_seen":{},"lastSeen":null}"#, "lastSeen"),
            (r#"{"lastSeen":{},"last_seen":{}}"#, "lastSeen"),
            (r#"[{"a":1},{"a":{"b":[{}],"b":2}}]"#, "b"),
            (r#"{"map":{"100":"1","7":"2","100":"3"}}"#, "100"),
            (r#"{"a":"}","b":"\\","c":"\"","a":1}"#, "a"),
        ] {
            assert_eq!(named_twice(json.as_bytes()).as_deref(), Some(name), "{json}");
        }
        for json in [
            r#"{"a":1,"b":{"a":1},"c":[{"a":1},{"a":1}]}"#,
            r#"{"a":"a","b":"a","c":["a","a"]}"#,
            r#"{"a":"\",\"a\":\"","b":"{\"a\":1,\"a\":2}"}"#,
            r#"{"":1,"b":{}}"#,
            "7",
            "",
        ] {
            assert_eq!(named_twice(json.as_bytes()), None, "{json}");
        }
    }

    #[test]
    fn what_is_no_json_is_read_to_its_end_and_long_names_are_cut() {
        for text in [&br#"{"a"#[..], br#"{"a\"#, b"}]", br#"{"a"}:"b":1"#, b"\"\xff\":", b"{\"\\"] {
            named_twice(text);
        }
        let long = "x".repeat(10_000);
        let twice = named_twice(format!(r#"{{"{long}":1,"{long}":2}}"#).as_bytes()).unwrap();
        assert_eq!(twice.len(), SHOWN_CHARS_MAX);
    }
}
