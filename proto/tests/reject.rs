//! Bytes that are no message do not decode, and none of them bring the process down.

use bytes::Bytes;

use crate::wire;

#[derive(serde::Deserialize)]
struct Reject {
    name: String,
    r#type: String,
    hex: String,
    why: String,
}

#[derive(serde::Deserialize)]
struct Golden {
    name: String,
    r#type: String,
    hex: String,
}

#[test]
fn types_refuse_malformed_bytes() {
    let table = wire::table();
    for vector in wire::vectors::<Reject>("reject.jsonl") {
        let bytes = hex::decode(&vector.hex).expect("vectors are hex");
        let read = table[&vector.r#type](bytes.into());
        assert!(read.is_err(), "{}: {}", vector.name, vector.why);
    }
}

/// A cut message may happen to be a shorter one, and then it is read as such.
#[test]
fn a_message_cut_anywhere_is_refused_or_is_another_message() {
    let table = wire::table();
    let mut refused = 0;
    for vector in wire::vectors::<Golden>("golden.jsonl") {
        let bytes = Bytes::from(hex::decode(&vector.hex).expect("vectors are hex"));
        for end in 0..bytes.len() {
            match table[&vector.r#type](bytes.slice(..end)) {
                // One more pass changes nothing: what was read is what is written.
                Ok(read) => {
                    let again = table[&vector.r#type](read.clone().into()).expect(&vector.name);
                    assert_eq!(again, read, "{} cut at {end}", vector.name);
                }
                Err(_) => refused += 1,
            }
        }
    }
    assert!(refused > 0);
}

/// Groups inside groups are skipped by recursion, which has to end before the stack does.
#[test]
fn deeply_nested_unknown_groups_are_refused() {
    const START_GROUP_9: u8 = 9 << 3 | 3;
    const END_GROUP_9: u8 = 9 << 3 | 4;
    let depth = 1_000_000;
    let mut bytes = vec![START_GROUP_9; depth];
    bytes.extend(vec![END_GROUP_9; depth]);
    let bytes = Bytes::from(bytes);
    for (name, recode) in wire::table() {
        assert!(recode(bytes.clone()).is_err(), "{name}");
    }
}
