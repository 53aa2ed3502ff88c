//! What fuzzing calls here, and how it is tried without a fuzzer: every file of the corpus, and mutations of each.

use std::path::Path;

use crate::key::{PresentedKey, mask};

/// A key as anybody may present one.
pub fn key(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let _ = PresentedKey::parse(&text);
    let shown = mask(&text);
    assert!(text.len() < 16 || !shown.contains(&*text), "a masked key shows no key");
}

/// Calls `target` with every file of a corpus and `rounds` mutations of each. The same inputs every time.
pub fn replay(corpus: &Path, rounds: u64, target: impl Fn(&[u8])) {
    let files = std::fs::read_dir(corpus).expect("the corpus is in the repository");
    let mut paths: Vec<_> = files.map(|file| file.expect("a file of the corpus").path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "{} is empty", corpus.display());
    let seeds: Vec<Vec<u8>> =
        paths.iter().map(|path| std::fs::read(path).expect("a file of the corpus")).collect();
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for seed in &seeds {
        target(seed);
        for _ in 0..rounds {
            target(&mutated(seed, &seeds, &mut random));
        }
    }
}

/// How many mutations of each file are tried.
#[expect(clippy::disallowed_methods, reason = "a test's own setting")]
pub fn rounds() -> u64 {
    std::env::var("TOLLGATE_FUZZ_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(2_000)
}

/// Xorshift: cheap, and the same on every machine.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 11).unwrap_or(0) % end.max(1)
    }
}

fn mutated(seed: &[u8], others: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    const ODD: [&[u8]; 16] = [
        b"\0",
        b"\r\n",
        b"\n\n",
        b"\"",
        b"\\u0000",
        b"{",
        b"[[[[[[[[",
        b"]",
        b":",
        b",",
        b"\xff",
        b"-1",
        b"1e999",
        b"null",
        b"18446744073709551616",
        b"\xe2\x84\xaa",
    ];
    let mut data = seed.to_vec();
    for _ in 0..=random.below(4) {
        let at = random.below(data.len() + 1);
        match random.below(7) {
            0 => data.truncate(at),
            1 if at < data.len() => data[at] = u8::try_from(random.below(256)).unwrap_or(0),
            2 if at < data.len() => data[at] ^= 1 << random.below(8),
            3 => {
                data.splice(at..at, ODD[random.below(ODD.len())].iter().copied());
            }
            4 => {
                let end = (at + random.below(20)).min(data.len());
                data.drain(at..end);
            }
            5 => {
                let end = (at + random.below(40)).min(data.len());
                let piece = data[at..end].to_vec();
                data.splice(at..at, piece);
            }
            _ => {
                let other = &others[random.below(others.len())];
                let from = random.below(other.len() + 1);
                data.truncate(at);
                data.extend_from_slice(&other[from..]);
            }
        }
    }
    data
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_corpus_of_keys() {
        replay(Path::new("../../fuzz/corpus/key"), rounds(), key);
    }
}
