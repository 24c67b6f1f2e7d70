//! Batches give the results of single recoveries, for honest and for hostile claims.

use proptest::prelude::*;

use super::*;
use crate::sign::{SecretKey, keccak256};

const ORDER: [u8; 32] = [
    0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfe,
    0xba, 0xae, 0xdc, 0xe6, 0xaf, 0x48, 0xa0, 0x3b, 0xbf, 0xd2, 0x5e, 0x8c, 0xd0, 0x36, 0x41, 0x41,
];

fn secret(index: u8) -> SecretKey {
    SecretKey::from_bytes(&[index + 1; 32]).unwrap()
}

fn claim(key: u8, text: u32) -> SignatureClaim {
    let (secret, digest) = (secret(key), keccak256(&[&text.to_be_bytes()]));
    SignatureClaim { digest, signature: secret.sign(digest), expected: Some(secret.public_key()) }
}

fn singly(claims: &[SignatureClaim]) -> Vec<Result<PublicKey, SignatureError>> {
    claims.iter().map(SignatureClaim::recover).collect()
}

/// Claims without an expected key: for each run its signer, and their number.
fn in_runs(runs: &[(u8, usize)]) -> Vec<SignatureClaim> {
    let signers = runs.iter().flat_map(|(key, len)| std::iter::repeat_n(*key, *len));
    let claims = (0..).zip(signers).map(|(text, key)| claim(key, text));
    claims.map(|claim| SignatureClaim { expected: None, ..claim }).collect()
}

fn scalar(bytes: &[u8]) -> Scalar {
    Scalar::from_repr(<[u8; 32]>::try_from(bytes).unwrap().into()).unwrap()
}

fn with(claim: &SignatureClaim, change: impl FnOnce(&mut [u8; 65])) -> SignatureClaim {
    let mut bytes = *claim.signature.as_bytes();
    change(&mut bytes);
    SignatureClaim { signature: Signature::from_bytes(&bytes).unwrap(), ..*claim }
}

/// The same signature with the other s and the other v, which is valid for the same key.
fn high_twin(claim: &SignatureClaim) -> SignatureClaim {
    with(claim, |bytes| {
        let s = <[u8; 32]>::try_from(&bytes[32..64]).unwrap();
        // An earlier change may have left no number below the order.
        let Some(s) = Option::<Scalar>::from(Scalar::from_repr(s.into())) else { return };
        bytes[32..64].copy_from_slice(&(-s).to_repr());
        bytes[64] ^= 1;
    })
}

/// Returns a false claim, or the same claim in another form, by `how`.
fn mutate(claim: &SignatureClaim, how: u8) -> SignatureClaim {
    match how {
        0 => high_twin(claim),
        1 => SignatureClaim { digest: keccak256(&[&claim.digest.0]), ..*claim },
        2 => SignatureClaim { expected: Some(secret(99).public_key()), ..*claim },
        3 => SignatureClaim { expected: None, ..*claim },
        4 => with(claim, |it| it[64] ^= 1),
        5 => with(claim, |it| it[64] |= 2),
        6 => with(claim, |it| it[40] ^= 4),
        7 => with(claim, |it| it[9] ^= 4),
        8 => with(claim, |it| it[..32].fill(0)),
        9 => with(claim, |it| it[32..64].fill(0)),
        10 => with(claim, |it| it[..32].copy_from_slice(&ORDER)),
        11 => with(claim, |it| it[32..64].copy_from_slice(&ORDER)),
        12 => with(claim, |it| it[..64].fill(0xff)),
        // The digest that is 0 modulo the order, and one above the order.
        13 => SignatureClaim { digest: Digest(ORDER), ..*claim },
        14 => SignatureClaim { digest: Digest([0xff; 32]), ..*claim },
        _ => *claim,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// `faults` says which claims are changed, and in which way.
    #[test]
    fn results_are_those_of_single_recoveries(
        keys in 1_u8..5,
        len in 0_usize..200,
        faults in proptest::collection::vec((any::<prop::sample::Index>(), 0_u8..15), 0..12),
        repeated in any::<bool>(),
    ) {
        let text = |i: usize| if repeated { 0 } else { u32::try_from(i).unwrap() };
        let mut claims: Vec<_> =
            (0..len).map(|i| claim(u8::try_from(i).unwrap() % keys, text(i))).collect();
        for (at, how) in faults {
            if !claims.is_empty() {
                let at = at.index(claims.len());
                claims[at] = mutate(&claims[at], how);
            }
        }
        prop_assert_eq!(recover_batch(&claims), singly(&claims));
    }

    /// Runs of signers, some of them of one claim, and claims that are not what they say.
    #[test]
    fn runs_of_signers_change_no_result(
        runs in proptest::collection::vec((0_u8..4, 1_usize..90), 1..8),
        faults in proptest::collection::vec((any::<prop::sample::Index>(), 0_u8..15), 0..4),
    ) {
        let mut claims = in_runs(&runs);
        for (at, how) in faults {
            let at = at.index(claims.len());
            claims[at] = mutate(&claims[at], how);
        }
        prop_assert_eq!(recover_similar(claims.clone()), singly(&claims));
    }

    /// Groups that name the signer, and groups that name another one, as an altered database does.
    #[test]
    fn groups_of_signers_change_no_result(
        signers in proptest::collection::vec((0_u8..4, any::<bool>()), 0..200),
        faults in proptest::collection::vec((any::<prop::sample::Index>(), 0_u8..15), 0..4),
    ) {
        let mut claims: Vec<_> = (0..).zip(&signers).map(|(text, (key, _))| claim(*key, text)).collect();
        for (at, how) in faults {
            if !claims.is_empty() {
                let at = at.index(claims.len());
                claims[at] = mutate(&claims[at], how);
            }
        }
        let honest: Vec<u8> = signers.iter().map(|(key, _)| *key).collect();
        prop_assert_eq!(recover_grouped(claims.clone(), &honest), singly(&claims));
        let altered: Vec<Option<u8>> =
            signers.iter().map(|(key, is_named)| is_named.then_some(key / 2)).collect();
        prop_assert_eq!(recover_grouped(claims.clone(), &altered), singly(&claims));
    }
}

#[test]
fn every_way_to_be_wrong_is_found_among_many_right_ones() {
    for how in 0..15 {
        let mut claims: Vec<_> = (0..64).map(|text| claim(0, text)).collect();
        claims[37] = mutate(&claims[37], how);
        assert_eq!(recover_batch(&claims), singly(&claims), "{how}");
        let alone = [claims[37]];
        assert_eq!(recover_grouped(alone.to_vec(), &[()]), singly(&alone), "{how}, alone");
        let all: Vec<_> = claims.iter().map(|claim| mutate(claim, how)).collect();
        assert_eq!(recover_batch(&all), singly(&all), "{how}, all of them");
        // Enough to be split.
        let many: Vec<_> = claims.iter().cycle().take(300).copied().collect();
        let parts = [&many[..], &many[..37], &many[38..101]].concat();
        assert_eq!(recover_batch(&parts), singly(&parts), "{how}, many");
    }
}

/// Honest claims are combined: the test above would pass as well if nothing ever was.
#[test]
fn the_combination_of_honest_claims_holds_for_every_size_of_digit() {
    for len in [32, 160, 480, 1_280, 3_072, 4_200] {
        let claims: Vec<_> =
            (0..len).map(|text| claim(u8::try_from(text % 2).unwrap(), text)).collect();
        let mut claims = claims;
        claims[1] = high_twin(&claims[1]);
        let equations = Equations::of(&claims);
        let len = claims.len();
        assert_eq!(equations.0.len(), len);
        assert!(equations.hold(0..len) && equations.hold(3..len - 1));
    }
}

/// Two errors that cancel each other in a sum without random coefficients: the digests are moved so that
/// one equation has G too much and another one has it too little.
#[test]
fn errors_that_cancel_are_found() {
    let mut claims: Vec<_> = (0..32).map(|text| claim(0, text)).collect();
    for (at, sign) in [(3, Scalar::ONE), (11, -Scalar::ONE)] {
        let s = scalar(&claims[at].signature.as_bytes()[32..64]);
        let moved = reduce(&claims[at].digest.0) + sign * s;
        claims[at].digest = Digest(moved.to_repr().into());
    }
    let mut equations = Equations::of(&claims);
    assert!(!equations.hold(0..32));
    assert_eq!(recover_batch(&claims), singly(&claims));
    assert_ne!(recover_batch(&claims)[3], Ok(secret(0).public_key()));
    for equation in &mut equations.0 {
        equation.coefficient = 1;
    }
    assert!(equations.hold(0..32), "the attack works on equal coefficients");
}

/// A signer who knows the key can make R the mirror image of another R, or the same again.
#[test]
fn points_that_cancel_or_repeat_get_their_own_results() {
    let first = claim(0, 1);
    let twin = high_twin(&first);
    let claims: Vec<_> = (0..40).map(|at| if at % 2 == 0 { first } else { twin }).collect();
    assert!(Equations::of(&claims).hold(0..40));
    assert!(recover_batch(&claims).iter().all(|it| *it == Ok(secret(0).public_key())));
    let mut claims = claims;
    claims[5] = mutate(&claims[5], 4);
    assert_eq!(recover_batch(&claims), singly(&claims));
}

/// A signer may choose its point so that r is the x coordinate without the group order, as a v of 2 or 3 says. All four
/// values of v are then valid, each for its own key.
#[test]
fn a_valid_claim_with_any_recovery_id_gets_its_own_result() {
    let digest = keccak256(&[b"xmtp vector high r"]);
    let signed = |v: u8| {
        let mut bytes = [0; 65];
        (bytes[31], bytes[63], bytes[64]) = (2, 7, v);
        let signature = Signature::from_bytes(&bytes).unwrap();
        SignatureClaim { digest, signature, expected: None }
    };
    for v in 0..4 {
        let key = signed(v).recover().unwrap();
        for expected in (0..4).map(|other| signed(other).recover().unwrap()) {
            let odd = SignatureClaim { expected: Some(expected), ..signed(v) };
            let mut claims: Vec<_> = (0..64).map(|text| claim(0, text)).collect();
            claims[37] = odd;
            let signers = recover_batch(&claims);
            assert_eq!((signers[37], signers[38]), (Ok(key), Ok(secret(0).public_key())), "v {v}");
            assert!(recover_batch(&[odd; 64]).iter().all(|it| *it == Ok(key)), "v {v}");
        }
    }
}

#[test]
fn coefficients_follow_every_byte_of_every_claim() {
    let claims: Vec<_> = (0..4).map(|text| claim(0, text)).collect();
    let all = |claims: &[SignatureClaim]| -> Vec<_> {
        let mut next = coefficients(claims);
        claims.iter().map(|_| next()).collect()
    };
    let before = all(&claims);
    assert_eq!(before, all(&claims));
    for how in [1, 2, 3, 4, 6, 7] {
        let mut claims = claims.clone();
        claims[2] = mutate(&claims[2], how);
        let after = all(&claims);
        assert!(before.iter().zip(&after).all(|(before, after)| before != after), "{how}");
    }
}

/// The figures of `docs/performance.md` rest on this: a guess that recovers every claim would be right as well.
#[test]
fn few_claims_are_recovered_where_signers_come_in_runs() {
    let recovered = |runs: &[(u8, usize)]| {
        let guess = SignerGuess::of(in_runs(runs));
        for (claim, known) in guess.claims.iter().zip(&guess.known) {
            let expected = known.or(claim.expected.map(Ok));
            assert_eq!(expected, Some(claim.recover()), "each guess is right");
        }
        guess.known.iter().flatten().count()
    };
    assert_eq!(recovered(&[(0, 500)]), 5, "one signer costs a look at each quarter");
    let runs: Vec<(u8, usize)> = (0..5).map(|key| (key, 100)).collect();
    // Each 32nd claim and the last one, and five looks at each of four borders.
    assert!(recovered(&runs) <= 16 + 1 + 3 + 4 * 5, "{}", recovered(&runs));
    let alike: Vec<(u8, usize)> = (0..12).map(|at| (at % 4, 40)).collect();
    // A look at each quarter, the search for the first border, and both ends of each later run.
    assert!(recovered(&alike) <= 5 + 8 + 2 * 12, "{}", recovered(&alike));
    let other: Vec<(u8, usize)> = (0..9).map(|at| (at % 3, 20 + 9 * usize::from(at))).collect();
    assert!(recovered(&other) < 9 * 12, "{}", recovered(&other));
}

#[test]
fn accounts_are_those_of_the_signers_in_any_order() {
    let signers = in_runs(&[(0, 2), (1, 1), (0, 1), (2, 2)]).into_iter().map(|it| it.recover());
    let mut signers: Vec<_> = signers.collect();
    signers.insert(1, Err(SignatureError::Unrecoverable));
    let singly: Vec<_> = signers.iter().map(|it| it.map(|key| key.address())).collect();
    assert_eq!(accounts(signers).collect::<Vec<_>>(), singly);
}

/// A sender who knows where the samples are makes every guess wrong.
#[test]
fn a_guess_that_is_wrong_everywhere_changes_no_result() {
    let runs: Vec<(u8, usize)> = (0..257).map(|at| (u8::from(at % 32 != 0), 1)).collect();
    let claims = in_runs(&runs);
    assert_eq!(recover_similar(claims.clone()), singly(&claims));
    let expected = claims[1].recover();
    let mut broken = claims;
    broken[0] = mutate(&broken[0], 8);
    assert_eq!(recover_similar(broken.clone()), singly(&broken));
    assert_eq!(recover_similar(broken)[1], expected);
}
