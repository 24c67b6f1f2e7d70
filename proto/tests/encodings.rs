//! Messages in ways of writing them that the vectors do not have, as any other encoder may choose them.

use crate::wire;

/// Recodes a message of the network, whose name begins with `xmtp.`; `None` if it does not decode.
fn recoded(name: &str, written: &str) -> Option<String> {
    let bytes = hex::decode(written.replace(' ', "")).expect("hex");
    let recode = wire::table()[&format!("xmtp.{name}")];
    recode(bytes.into()).ok().map(hex::encode)
}

/// The lists have the type, the bytes as written, and the bytes that this program writes for the same message.
fn check(cases: &[(&str, &str, &str)]) {
    for (name, written, canonical) in cases {
        let canonical = canonical.replace(' ', "");
        assert_eq!(recoded(name, written).as_ref(), Some(&canonical), "{name}: {written}");
        // What this program writes is read as the same message.
        assert_eq!(recoded(name, &canonical).as_ref(), Some(&canonical), "{name}: {canonical}");
    }
}

#[test]
fn entries_of_maps_are_read_in_each_form() {
    check(&[
        // An unknown field in an entry, the value before the key, and descending keys.
        ("xmtpv4.envelopes.Cursor", "0a07 0801 1002 1a0161", "0a04 0801 1002"),
        ("xmtpv4.envelopes.Cursor", "0a04 1002 0801", "0a04 0801 1002"),
        (
            "xmtpv4.envelopes.Cursor",
            "0a04 0809 1001 0a04 0802 1003",
            "0a04 0802 1003 0a04 0809 1001",
        ),
        // A key and a value that an entry states twice, and a key that is written longer than it needs.
        ("xmtpv4.envelopes.Cursor", "0a08 0801 1002 0803 1004", "0a04 0803 1004"),
        ("xmtpv4.envelopes.Cursor", "0a06 08818000 1002", "0a04 0801 1002"),
        (
            "xmtpv4.payer_api.GetNodesResponse",
            "0a05 0801 120161 0a05 0801 120162",
            "0a05 0801 120162",
        ),
        // Two cursors are merged, and the later entry of a key counts.
        (
            "xmtpv4.message_api.EnvelopesQuery",
            "1a06 0a04 0801 1005 1a0c 0a04 0802 1003 0a04 0801 1006",
            "1a0c 0a04 0801 1006 0a04 0802 1003",
        ),
    ]);
}

#[test]
fn lists_of_numbers_are_read_packed_and_one_by_one() {
    check(&[
        ("xmtpv4.message_api.EnvelopesQuery", "1064 10c801", "1203 64c801"),
        ("xmtpv4.message_api.EnvelopesQuery", "1200", ""),
        ("xmtpv4.envelopes.PayerReport", "3064 0801 3203c80105 3000", "0801 3205 64c8010500"),
        ("xmtpv4.message_api.SubscribeResponse.V1.Started", "1007 120103", "1202 0703"),
        (
            "mls.message_contents.WelcomePointeeEncryptionAeadTypesExtension",
            "0803 0a020301 08ffffffff0f",
            "0a0d 03 03 01 ffffffffffffffffff01",
        ),
    ]);
}

#[test]
fn the_last_member_counts_and_the_same_one_is_merged() {
    check(&[
        ("identity.associations.MemberIdentifier", "0a0161 120107", "120107"),
        ("identity.associations.MemberIdentifier", "120107 0a0161", "0a0161"),
        ("identity.associations.MemberIdentifier", "0a0161 0a00", "0a00"),
        ("identity.associations.MemberIdentifier", "1a03 0a0101 1a03 120178", "1a06 0a0101 120178"),
        ("xmtpv4.message_api.SubscribeRequest.V1", "1202 0805 0a00", "0a00"),
        ("xmtpv4.message_api.SubscribeRequest.V1", "1202 0805 1200", "1202 0805"),
        ("xmtpv4.message_api.SubscribeRequest.V1", "1202 0805 1a00 1200", "1200"),
        ("xmtpv4.message_api.LivenessFailure", "2200 1200", "1200"),
        // The number behind a choice may come before it.
        (
            "xmtpv4.message_api.UnsignedMisbehaviorReport",
            "3001 1064 1805 2a00",
            "1064 1805 2a00 3001",
        ),
        (
            "xmtpv4.envelopes.OriginatorEnvelope",
            "1a03 0a0107 1203 0a0109 0a0108",
            "0a0108 1203 0a0109",
        ),
    ]);
}

#[test]
fn numbers_are_cut_to_their_type_and_what_is_given_stays_given() {
    check(&[
        ("mls.api.v1.UploadKeyPackageRequest", "1002", "1001"),
        ("mls.api.v1.UploadKeyPackageRequest", "1001 1000", ""),
        ("mls.api.v1.UploadKeyPackageRequest", "10ffffffffffffffffff01", "1001"),
        ("xmtpv4.message_api.SubscribeTopicsResponse.StatusUpdate", "088380808010", "0803"),
        (
            "xmtpv4.message_api.SubscribeTopicsResponse.StatusUpdate",
            "08ffffffffffffffffff01",
            "08ffffffffffffffffff01",
        ),
        ("identity.associations.Member", "1800 2000", "1800 2000"),
        ("identity.associations.Member", "1805 1800", "1800"),
        ("xmtpv4.message_api.GetInboxIdsResponse.Response", "1200", "1200"),
        ("xmtpv4.envelopes.UnsignedOriginatorEnvelope", "0887808080f001 1805", "0807 1805"),
    ]);
}

#[test]
fn unknown_fields_of_every_type_and_number_are_passed_over() {
    let groups: Vec<u8> = [[0x4b_u8].repeat(50), [0x4c_u8].repeat(50)].concat();
    assert_eq!(recoded("xmtpv4.envelopes.Cursor", &hex::encode(groups)).as_deref(), Some(""));
    check(&[
        // The highest number, and a group with a field of number 1 inside.
        ("xmtpv4.envelopes.Cursor", "f8ffffff0f01", ""),
        ("xmtpv4.envelopes.Cursor", "4b 0801 4c 0a04 0801 1002", "0a04 0801 1002"),
        ("xmtpv4.envelopes.Cursor", "8a00 04 0801 1002 4900000000000000ff", "0a04 0801 1002"),
        (
            "xmtpv4.message_api.QueryEnvelopesResponse",
            "0a06 0a0108 7a0161 0a00 7a00",
            "0a03 0a0108 0a00",
        ),
        (
            "xmtpv4.message_api.SubscribeResponse",
            "0a0a 0a08 0a06 0a0108 7a0161",
            "0a07 0a05 0a03 0a0108",
        ),
    ]);
}

#[test]
fn what_no_decoder_reads_is_refused_in_each_place() {
    for (name, written) in [
        // Text that is not UTF-8: in a list, a key and a value of a map, and in an overlong form.
        ("xmtpv4.metadata_api.GetPayerInfoRequest", "0a01ff"),
        ("xmtpv4.metadata_api.GetPayerInfoResponse", "0a03 0a01ff"),
        ("xmtpv4.payer_api.GetNodesResponse", "0a03 1201ff"),
        ("identity.MlsCredential", "0a02 c080"),
        // A packed list that ends within a number, and a map's entry that ends within its value.
        ("xmtpv4.message_api.EnvelopesQuery", "1202 6480"),
        ("xmtpv4.envelopes.Cursor", "0a03 0801 10"),
        // Numbers of fields of 30 bits, and of more than 32.
        ("xmtpv4.envelopes.Cursor", "808080801001"),
        ("xmtpv4.envelopes.Cursor", "8a80808080808080800100"),
        // A number of more than 64 bits.
        ("xmtpv4.envelopes.UnsignedOriginatorEnvelope", "10ffffffffffffffffff02"),
        // Groups: closed by another number, and closed in a message that did not open it.
        ("xmtpv4.envelopes.Cursor", "4b54"),
        ("xmtpv4.envelopes.ClientEnvelope", "0a010c"),
        // Unknown numbers of fixed length that are cut off.
        ("xmtpv4.envelopes.Cursor", "49 0102"),
        ("xmtpv4.envelopes.Cursor", "4d 010203"),
        // Messages inside of lists, also those that this program keeps as bytes.
        ("xmtpv4.message_api.PublishPayerEnvelopesRequest", "0a02 0a05"),
        ("xmtpv4.message_api.QueryEnvelopesResponse", "0a02 0a05"),
        ("xmtpv4.message_api.SubscribeEnvelopesResponse", "0a02 0a05"),
        ("xmtpv4.message_api.SubscribeOriginatorsResponse", "0a04 0a02 0a05"),
        ("xmtpv4.message_api.SubscribeOriginatorsResponse", "0a02 0a05"),
        ("xmtpv4.message_api.SubscribeOriginatorsResponse.Envelopes", "0a02 0a05"),
        ("xmtpv4.message_api.SubscribeTopicsResponse", "0a04 0a02 0a05"),
        ("xmtpv4.message_api.SubscribeTopicsResponse.Envelopes", "0a02 0a05"),
        ("xmtpv4.message_api.SubscribeResponse", "0a06 0a04 0a02 0a05"),
        ("xmtpv4.message_api.SubscribeResponse.V1", "0a04 0a02 0a05"),
        ("xmtpv4.message_api.SubscribeResponse.V1.Envelopes", "0a02 0a05"),
    ] {
        assert_eq!(recoded(name, written), None, "{name}: {written}");
    }
}
