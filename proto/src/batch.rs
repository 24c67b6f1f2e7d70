//! Recovers the signers of many signatures at once.
//!
//! A recoverable signature (r, s, v) over z names a point R: its x coordinate is r, the parity of its y is v.
//! The key Q made the signature exactly if R = (z/s)·G + (r/s)·Q. For claims whose signer is expected, one
//! random linear combination of these equations is checked instead of each of them:
//!
//! Σ aᵢ·Rᵢ = (Σ aᵢ·zᵢ/sᵢ)·G + Σ over keys ((Σ aᵢ·rᵢ/sᵢ)·Q)
//!
//! The coefficients aᵢ have 128 bits, so the sum over all Rᵢ costs about a fifth of the single recoveries.
//! A combination that holds although one of its equations does not has a probability of 2⁻¹²⁸; the argument
//! is in `docs/protocol/batch-signatures.md`. A claim that a combination does not vouch for is recovered
//! alone, so an expectation never changes a result.

use std::collections::HashMap;
use std::hash::Hash;
use std::ops::Range;
use std::sync::LazyLock;

use k256::elliptic_curve::PrimeField as _;
use k256::elliptic_curve::ops::LinearCombination as _;
use k256::elliptic_curve::sec1::FromSec1Point as _;
use k256::{AffinePoint, ProjectivePoint, Scalar};

use crate::sign::{Address, Digest, PublicKey, Signature, SignatureError};

mod field;
#[cfg(target_arch = "x86_64")]
mod lane_points;
#[cfg(target_arch = "x86_64")]
mod lanes;
mod multiply;
mod points;
mod roots;

use multiply::sum_of_products;
use points::CurvePoint;
use roots::{CompressedPoint, curve_points};

/// The fewest claims for one combination. Below it, single recoveries cost less (measured), or not much more.
const COMBINED_MIN: usize = 24;
/// The same where the processor has instructions for eight numbers at once. With 12 claims each costs three fifths of a
/// recovery (measured), so a combination that fails costs less than the recoveries that follow it.
#[cfg(target_arch = "x86_64")]
const COMBINED_IN_LANES_MIN: usize = 12;
/// The fewest claims that share a key in a combination: each key adds a multiplication, of some 60 additions.
const SHARED_MIN: usize = 8;
/// Number of parts into which a failed combination is split. One wrong claim among many then costs an eighth of the
/// single recoveries, and claims that are all wrong cost less than twice all of them.
const PARTS: usize = 8;
/// The fewest claims of a failed combination that are split. With fewer the parts save no more than they cost
/// (measured).
const SPLIT_MIN: usize = 256;
/// The fewest claims for which [`recover_similar`] guesses signers. A guess: the five extra recoveries cost little
/// beside them.
const GUESSED_MIN: usize = 64;
/// Distance between sampled claims in a run of unknown length. A guess: the samples cost about 3 % of all recoveries,
/// and a shorter run of one signer saves little.
const SAMPLED_EVERY: usize = 32;
/// The longest run that is foreseen from the one before it, without samples within it. A guess: about as much as a
/// gateway sends at once. If others sign within such a run, the combination fails, and its part is recovered singly.
const RUN_FORESEEN_MAX: usize = 128;

/// A signature over a digest, with the key that is expected to have made it, if one is.
#[derive(Debug, Clone, Copy)]
pub struct SignatureClaim {
    /// The digest that was signed.
    pub digest: Digest,
    /// The signature.
    pub signature: Signature,
    /// A guess at the signer. A wrong one costs time and changes no result.
    pub expected: Option<PublicKey>,
}

impl SignatureClaim {
    /// Recovers the signer of this claim alone.
    fn recover(&self) -> Result<PublicKey, SignatureError> {
        self.signature.recover(self.digest)
    }
}

/// A signer, or the reason there is none.
type RecoveredSigner = Result<PublicKey, SignatureError>;

/// Recovers the signer of every claim as [`recover_batch`] does, with guesses at the expected signers.
///
/// Signers come in runs: one gateway pays for most of a batch, or at least each request has one payer. A few claims are
/// sampled and recovered alone, such as both ends of each run. A run is expected to be as long as the one before it.
/// The claims between two samples of one signer are expected to have it too. The recoveries of samples are part of the
/// result, and a wrong guess changes no result.
#[must_use]
pub fn recover_similar(claims: Vec<SignatureClaim>) -> Vec<RecoveredSigner> {
    if claims.len() < GUESSED_MIN {
        return recover_batch(&claims);
    }
    let SignerGuess { claims, known } = SignerGuess::of(claims);
    recover_others(claims, known)
}

/// Recovers the signer of every claim as [`recover_batch`] does. `groups` has a group for each claim. The claims of one
/// group are expected to have one signer.
///
/// The first claim of each group is recovered alone, and its signer is expected for the others. So signers that take
/// turns cost no more than runs of them. A wrong group costs time and changes no result.
///
/// # Panics
/// If the number of groups is not that of the claims.
#[must_use]
pub fn recover_grouped<G: Eq + Hash>(
    mut claims: Vec<SignatureClaim>,
    groups: &[G],
) -> Vec<RecoveredSigner> {
    assert_eq!(claims.len(), groups.len(), "each claim has a group");
    if let [claim] = &claims[..] {
        return vec![claim.recover()]; // most publishes: they need no table
    }
    let mut signers: HashMap<&G, Option<PublicKey>> = HashMap::new();
    let mut known = vec![None; claims.len()];
    for (at, claim) in claims.iter_mut().enumerate() {
        if let Some(signer) = signers.get(&groups[at]) {
            claim.expected = *signer;
            continue;
        }
        let signer = claim.recover();
        signers.insert(&groups[at], signer.ok());
        known[at] = Some(signer);
    }
    recover_others(claims, known)
}

/// Returns the accounts of recovered signers, in their order. An account costs a hash, and signers come in runs, so the
/// account of the last one is remembered.
pub fn accounts(
    signers: Vec<RecoveredSigner>,
) -> impl Iterator<Item = Result<Address, SignatureError>> {
    let mut last: Option<(PublicKey, Address)> = None;
    signers.into_iter().map(move |signer: RecoveredSigner| -> Result<Address, SignatureError> {
        let signer = signer?;
        let known = last.filter(|(key, _)| *key == signer);
        let account = known.map_or_else(|| signer.address(), |(_, account)| account);
        last = Some((signer, account));
        Ok(account)
    })
}

/// Recovers the signers that are not known yet, together. Returns all of them.
fn recover_others(
    claims: Vec<SignatureClaim>,
    known: Vec<Option<RecoveredSigner>>,
) -> Vec<RecoveredSigner> {
    let others = claims.into_iter().zip(&known).filter(|(_, known)| known.is_none());
    let others: Vec<SignatureClaim> = others.map(|(claim, _)| claim).collect();
    let mut others = recover_batch(&others).into_iter();
    let mut next = || others.next().expect("one for each claim that is not known");
    known.into_iter().map(|known| known.unwrap_or_else(&mut next)).collect()
}

/// Guesses the signers of all claims from the recovered signers of a few.
struct SignerGuess {
    claims: Vec<SignatureClaim>,
    /// The recovered signers of the samples; `None` for claims that are not samples.
    known: Vec<Option<RecoveredSigner>>,
}

impl SignerGuess {
    /// Recovers samples until every other claim is between two samples and has an expected signer. `claims` is not
    /// empty.
    fn of(claims: Vec<SignatureClaim>) -> Self {
        let last = claims.len() - 1;
        let known = vec![None; claims.len()];
        let mut guess = Self { claims, known };
        let quarters = (0..last).step_by(last.div_ceil(4).max(1)).chain([last]);
        quarters.clone().for_each(|at| guess.sample(at));
        let first = guess.signer(0);
        let has_one = first.is_some() && quarters.clone().all(|at| guess.signer(at) == first);
        if !has_one {
            guess.sample_runs();
        }
        let known = (0..=last).filter(|at| guess.known[*at].is_some());
        let known: Vec<usize> = known.collect();
        known.windows(2).for_each(|ends| guess.settle(ends[0], ends[1]));
        guess
    }

    /// Recovers the claim at `at` unless it is a sample already.
    fn sample(&mut self, at: usize) {
        let claim = &self.claims[at];
        self.known[at].get_or_insert_with(|| claim.recover());
    }

    /// Returns the signer of a sample; `None` if the claim is not one, or no key can be recovered from it.
    fn signer(&self, at: usize) -> Option<PublicKey> {
        self.known[at].and_then(Result::ok)
    }

    /// Samples both ends of each run.
    fn sample_runs(&mut self) {
        let (mut start, mut length) = (0, SAMPLED_EVERY);
        while start < self.claims.len() {
            let next = self.end_of_run(start, length);
            length = (next - start).min(RUN_FORESEEN_MAX);
            start = next;
        }
    }

    /// Samples the run that begins at `start`, and returns the index behind it. Requests have sizes in common, so its
    /// end is looked for first where a run of `length` claims ends.
    fn end_of_run(&mut self, start: usize, length: usize) -> usize {
        let end = self.claims.len();
        self.sample(start);
        if self.signer(start).is_none() {
            return start + 1;
        }
        // `last` is in the run and `behind` is not: first a claim outside is looked for, then the end between both.
        let (mut last, mut probe, mut step) = (start, (start + length).min(end) - 1, 1);
        let mut behind = loop {
            if !self.sample_run(start, probe) {
                break probe;
            }
            last = probe;
            if last + 1 == end {
                return end;
            }
            probe = (last + step).min(end - 1);
            step = SAMPLED_EVERY;
        };
        while behind - last > 1 {
            let middle = usize::midpoint(last, behind);
            if self.sample_run(start, middle) {
                last = middle;
            } else {
                behind = middle;
            }
        }
        behind
    }

    /// Samples the claim at `at`. Returns true if it has the signer of the one at `start`.
    fn sample_run(&mut self, start: usize, at: usize) -> bool {
        self.sample(at);
        self.signer(at) == self.signer(start)
    }

    /// Sets the expected signer of the claims between two samples of one signer. Samples the middle if the signers
    /// differ.
    fn settle(&mut self, from: usize, to: usize) {
        if to - from < 2 {
            return;
        }
        let signer = self.signer(from);
        if signer.is_some() && signer == self.signer(to) {
            self.claims[from + 1..to].iter_mut().for_each(|claim| claim.expected = signer);
            return;
        }
        let middle = usize::midpoint(from, to);
        self.sample(middle);
        self.settle(from, middle);
        self.settle(middle, to);
    }
}

/// Recovers the signer of every claim, in order: the results of [`Signature::recover`].
///
/// Claims with an expected key that seven others share cost about a third of a recovery, in calls of some hundred, and
/// less in larger ones; about half of that where the processor has AVX-512 IFMA. Callers split large batches over their
/// threads. Memory: at most about 900 bytes for each claim, and 700 KiB.
#[must_use]
pub fn recover_batch(claims: &[SignatureClaim]) -> Vec<Result<PublicKey, SignatureError>> {
    let mut is_expected = vec![false; claims.len()];
    let equations = Equations::of(claims);
    let mut vouch = |part: Range<usize>| {
        let holds = part.len() >= combined_min() && equations.hold(part.clone());
        if holds {
            equations.0[part].iter().for_each(|it| is_expected[it.claim] = true);
        }
        holds
    };
    let all = 0..equations.0.len();
    if !vouch(all.clone()) {
        let len = all.len().div_ceil(PARTS);
        for start in all.clone().step_by(len.max(1)).filter(|_| all.len() >= SPLIT_MIN) {
            vouch(start..(start + len).min(all.end));
        }
    }
    let result = |(claim, is_expected): (&SignatureClaim, bool)| match claim.expected {
        Some(key) if is_expected => Ok(key),
        _ => claim.recover(),
    };
    claims.iter().zip(is_expected).map(result).collect()
}

/// Returns the fewest claims for one combination.
fn combined_min() -> usize {
    #[cfg(target_arch = "x86_64")]
    if lanes::are_there() {
        return COMBINED_IN_LANES_MIN;
    }
    COMBINED_MIN
}

/// One claim as an equation R = u₁·G + u₂·Q.
struct Equation {
    /// Index of the claim.
    claim: usize,
    /// Index of the expected key in [`Equations`].
    key: usize,
    point: CurvePoint,
    u1: Scalar,
    u2: Scalar,
    /// The random coefficient.
    coefficient: u128,
}

/// The claims that can be combined, and their keys.
struct Equations(Vec<Equation>, Vec<ProjectivePoint>);

impl Equations {
    /// Makes an equation of each claim whose expected key at least [`SHARED_MIN`] claims share. All divisions together
    /// take one inversion.
    fn of(claims: &[SignatureClaim]) -> Self {
        // Keys come in runs, and a look at the table costs more than a comparison with the key before.
        let are_alike = |a: &SignatureClaim, b: &SignatureClaim| a.expected == b.expected;
        let mut shares: HashMap<PublicKey, usize> = HashMap::new();
        for run in claims.chunk_by(are_alike) {
            if let Some(key) = run[0].expected {
                *shares.entry(key).or_default() += run.len();
            }
        }
        shares.retain(|_, share| *share >= SHARED_MIN);
        if shares.is_empty() {
            return Self(Vec::new(), Vec::new());
        }
        let mut points = Vec::with_capacity(shares.len());
        for (key, index) in &mut shares {
            *index = points.len();
            points.push(affine(key).into());
        }
        let mut coefficients = coefficients(claims);
        let (mut equations, mut compressed) = (Vec::new(), Vec::new());
        // Holds s instead of u₂ until all values of s are inverted together below.
        let mut indexes = 0_usize..;
        for run in claims.chunk_by(are_alike) {
            let key = run[0].expected.and_then(|key| shares.get(&key).copied());
            for (it, claim) in run.iter().zip(&mut indexes) {
                let coefficient = coefficients();
                let parts = key.and_then(|key| Some((key, parse(&it.signature)?)));
                let Some((key, (point, u1, u2))) = parts else { continue };
                compressed.push(point);
                equations.push(move |point| Equation { claim, key, point, u1, u2, coefficient });
            }
        }
        let points_of_r = curve_points(&compressed).into_iter();
        let with_point = equations.into_iter().zip(points_of_r);
        let mut equations: Vec<Equation> =
            with_point.filter_map(|(equation, point)| Some(equation(point?))).collect();
        let inverses = invert_all(equations.iter().map(|it| it.u2).collect());
        for (equation, inverse) in equations.iter_mut().zip(inverses) {
            equation.u2 = equation.u1 * inverse;
            equation.u1 = reduce(&claims[equation.claim].digest.0) * inverse;
        }
        Self(equations, points)
    }

    /// Returns true if the combination of these equations holds.
    fn hold(&self, part: Range<usize>) -> bool {
        let part = &self.0[part];
        let mut generator = Scalar::ZERO;
        let mut keys = vec![Scalar::ZERO; self.1.len()];
        for equation in part {
            let coefficient = Scalar::from(equation.coefficient);
            generator += coefficient * equation.u1;
            keys[equation.key] += coefficient * equation.u2;
        }
        // All products together share their doublings. Nothing here is secret, so the time may depend on it.
        let keys = self.1.iter().copied().zip(keys);
        let used = keys.filter(|(_, factor)| !bool::from(factor.is_zero()));
        let terms: Vec<_> = used.chain([(ProjectivePoint::GENERATOR, generator)]).collect();
        let right = ProjectivePoint::lincomb_vartime(&terms[..]);
        let points: Vec<_> = part.iter().map(|it| it.point).collect();
        let coefficients: Vec<_> = part.iter().map(|it| it.coefficient).collect();
        sum_of_products(&points, &coefficients) == right
    }
}

/// Returns a source of the coefficients, one for each claim.
///
/// They depend on all claims and on a secret of this process. A sender can therefore neither predict them nor search
/// for claims whose errors cancel under them.
fn coefficients(claims: &[SignatureClaim]) -> impl FnMut() -> u128 {
    static SECRET: LazyLock<[u8; 32]> = LazyLock::new(rand::random);
    let mut hasher = blake3::Hasher::new_keyed(&SECRET);
    for claim in claims {
        hasher.update(&claim.digest.0);
        hasher.update(claim.signature.as_bytes());
        // All three parts have a fixed length: no two lists of claims have the same bytes.
        hasher.update(claim.expected.as_ref().map_or(&[0; 65], |key| key.as_bytes()));
    }
    let mut output = hasher.finalize_xof();
    move || {
        let mut bytes = [0; 16];
        output.fill(&mut bytes);
        u128::from_le_bytes(bytes)
    }
}

/// Returns R without its y coordinate, r and s. `None` for a signature that single recovery refuses, and for one with v
/// of 2 or 3: there r is not R's x coordinate but that minus the group order, which is rare enough to leave to single
/// recovery.
fn parse(signature: &Signature) -> Option<(CompressedPoint, Scalar, Scalar)> {
    let bytes = signature.as_bytes();
    let ([r, s], &[v]) = bytes.as_chunks::<32>() else { unreachable!("65 bytes") };
    let point = CompressedPoint { x: *r, has_odd_y: Some(v).filter(|v| *v <= 1)? == 1 };
    let scalar = |bytes: &[u8; 32]| {
        let scalar = Option::<Scalar>::from(Scalar::from_repr((*bytes).into()));
        scalar.filter(|scalar| !bool::from(scalar.is_zero()))
    };
    Some((point, scalar(r)?, scalar(s)?))
}

/// Returns a number of 32 bytes modulo the group order, as ECDSA reads a digest (SEC 1 §4.1.4).
fn reduce(bytes: &[u8; 32]) -> Scalar {
    use k256::elliptic_curve::ops::Reduce as _;
    Scalar::reduce(&k256::U256::from_be_slice(bytes))
}

fn affine(key: &PublicKey) -> AffinePoint {
    let encoded = k256::Sec1Point::from_bytes(key.as_bytes()).expect("an uncompressed point");
    Option::from(AffinePoint::from_sec1_point(&encoded)).expect("keys lie on the curve")
}

/// Returns the inverses of numbers that are not 0, with one inversion (Montgomery's method).
fn invert_all(mut numbers: Vec<Scalar>) -> Vec<Scalar> {
    let mut product = Scalar::ONE;
    let mut products = Vec::with_capacity(numbers.len());
    for number in &numbers {
        products.push(product);
        product *= number;
    }
    let mut inverse = Option::<Scalar>::from(product.invert()).expect("no factor is 0");
    for (number, before) in numbers.iter_mut().zip(products).rev() {
        let next = inverse * *number;
        *number = inverse * before;
        inverse = next;
    }
    numbers
}

#[cfg(test)]
mod tests;
