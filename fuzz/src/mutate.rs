//! Mutations of vectors: changed, cut and joined bytes, and false lengths.

use rand::rngs::SmallRng;
use rand::{Rng as _, RngExt as _, SeedableRng as _};

/// The longest input in bytes. Short inputs let a run try many.
pub(crate) const INPUT_LEN_MAX: usize = 64 * 1024;

/// Encodings of false lengths in protobuf, MLS and the peer frames.
const LIES: &[&[u8]] = &[
    &[0x00],
    &[0x7f],
    &[0x80, 0x01],
    &[0xff, 0xff, 0xff, 0xff, 0x07],
    &[0xff, 0xff, 0xff, 0xff, 0x0f],
    &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
    &[0x3f],
    &[0x7f, 0xff],
    &[0xbf, 0xff, 0xff, 0xff],
    &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
    &[0xc0, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x01],
    &[0x00, 0x01, 0x00, 0x00],
    &[0x02, 0x00, 0x00, 0x00],
    &[0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
    &[0x80, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00],
];

/// A deterministic source of inputs: equal seeds and numbers give equal inputs.
pub(crate) struct Mutator<'a> {
    rng: SmallRng,
    vectors: &'a [Vec<u8>],
}

impl<'a> Mutator<'a> {
    pub(crate) fn new(seed: u64, vectors: &'a [Vec<u8>]) -> Self {
        assert!(!vectors.is_empty(), "there is nothing to mutate");
        Self { rng: SmallRng::seed_from_u64(seed), vectors }
    }

    /// Returns the next input: mostly a vector with one to four mutations.
    pub(crate) fn input(&mut self) -> Vec<u8> {
        if self.rng.random_ratio(1, 50) {
            return self.noise(300);
        }
        let mut input = self.vector().to_vec();
        for _ in 0..self.rng.random_range(1..=4) {
            self.mutate(&mut input);
        }
        input.truncate(INPUT_LEN_MAX);
        input
    }

    fn mutate(&mut self, input: &mut Vec<u8>) {
        match self.rng.random_range(0..9) {
            0 | 1 => self.flip_bit(input),
            2 => self.set_byte(input),
            3 => input.truncate(self.at(input)),
            4 => self.remove(input),
            5 => self.insert(input),
            6 => self.repeat(input),
            7 => self.splice(input),
            _ => self.lie(input),
        }
    }

    fn vector(&mut self) -> &'a [u8] {
        &self.vectors[self.rng.random_range(0..self.vectors.len())]
    }

    fn noise(&mut self, len_max: usize) -> Vec<u8> {
        let mut noise = vec![0; self.rng.random_range(0..=len_max)];
        self.rng.fill_bytes(&mut noise);
        noise
    }

    /// Returns an offset in `input`, its end included. Often near the beginning, where the structure is.
    fn at(&mut self, input: &[u8]) -> usize {
        let len = if self.rng.random() { input.len() } else { input.len().min(64) };
        self.rng.random_range(0..=len)
    }

    /// Returns the range of a short part of `input`.
    fn part(&mut self, input: &[u8]) -> std::ops::Range<usize> {
        let from = self.at(input);
        let len_max = (input.len() - from).min(32);
        from..from + self.rng.random_range(0..=len_max)
    }

    fn flip_bit(&mut self, input: &mut [u8]) {
        let (at, bit) = (self.at(input), self.rng.random_range(0..8));
        if let Some(byte) = input.get_mut(at) {
            *byte ^= 1 << bit;
        }
    }

    fn set_byte(&mut self, input: &mut [u8]) {
        let at = self.at(input);
        let value = match self.rng.random_range(0..4) {
            0 => 0,
            1 => 0xff,
            2 => self.rng.random_range(0..0x48), // tags, kinds and counts are small
            _ => self.rng.random(),
        };
        if let Some(byte) = input.get_mut(at) {
            *byte = value;
        }
    }

    fn remove(&mut self, input: &mut Vec<u8>) {
        input.drain(self.part(input));
    }

    fn insert(&mut self, input: &mut Vec<u8>) {
        let (at, noise) = (self.at(input), self.noise(16));
        input.splice(at..at, noise);
    }

    /// Repeats a part once or very often, because many small elements may take much memory once decoded.
    fn repeat(&mut self, input: &mut Vec<u8>) {
        let part = self.part(input);
        let often = if self.rng.random_ratio(1, 8) { 2_000 } else { 8 };
        let times = self.rng.random_range(1..=often);
        let copies = input[part.clone()].repeat(times.min(INPUT_LEN_MAX / 32));
        input.splice(part.end..part.end, copies);
    }

    /// Joins the beginning of the input and the end of another vector.
    fn splice(&mut self, input: &mut Vec<u8>) {
        let other = self.vector();
        let (at, from) = (self.at(input), self.at(other));
        input.truncate(at);
        input.extend_from_slice(&other[from..]);
    }

    fn lie(&mut self, input: &mut Vec<u8>) {
        let at = self.at(input);
        let lie = LIES[self.rng.random_range(0..LIES.len())];
        let over = if self.rng.random() { lie.len().min(input.len() - at) } else { 0 };
        input.splice(at..at + over, lie.iter().copied());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_decides_every_input() {
        let vectors = [vec![1; 40], (0..200).collect(), vec![]];
        let inputs = |seed| -> Vec<_> {
            let mut mutator = Mutator::new(seed, &vectors);
            (0..2_000).map(|_| mutator.input()).collect()
        };
        let made = inputs(7);
        assert_eq!(made, inputs(7));
        assert_ne!(made, inputs(8));
        assert!(made.iter().all(|input| input.len() <= INPUT_LEN_MAX));
        assert!(made.iter().any(|input| input.len() > 1_000), "nothing was repeated often");
        let changed = made.iter().filter(|input| !vectors.contains(input)).count();
        assert!(changed > 1_500, "only {changed} inputs are new");
    }
}
