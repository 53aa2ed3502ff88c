//! Values that must not leak: a wrapper that cannot be printed, random bytes, and the versioned keys of an
//! installation (the pepper that verifies API keys, the key that encrypts upstream credentials).

use std::cell::RefCell;
use std::fmt;

use aws_lc_rs::{digest, hmac};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::Zeroize;

/// A text that is wiped when dropped and never printed. Showing it is always written out as [`Secret::reveal`].
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

/// Secrets come in from callers; they go out only through [`ShownOnce`].
impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self)
    }
}

/// The one answer in which a new secret is shown.
#[derive(Clone, Debug)]
pub struct ShownOnce(pub Secret);

impl Serialize for ShownOnce {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0.reveal())
    }
}

/// Fills `bytes` from the operating system's generator.
pub fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).expect("the random generator works, or nothing here may");
    bytes
}

/// A part of an id. The generator is asked for many at a time, for each call of it costs more than the bytes do.
pub fn random_u64() -> u64 {
    const AT_A_TIME: usize = 32;
    thread_local! {
        static LEFT: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
    }
    LEFT.with_borrow_mut(|left| {
        if left.is_empty() {
            let bytes: [u8; 8 * AT_A_TIME] = random_bytes();
            left.extend(bytes.as_chunks().0.iter().map(|bytes| u64::from_le_bytes(*bytes)));
        }
        left.pop().unwrap_or_default()
    })
}

/// 256 bits that verify or encrypt, by version.
#[derive(Clone)]
pub struct MasterKey {
    pub version: i64,
    bytes: [u8; 32],
}

impl MasterKey {
    pub fn generate(version: i64) -> Self {
        Self { version, bytes: random_bytes() }
    }

    pub fn from_bytes(version: i64, bytes: [u8; 32]) -> Self {
        Self { version, bytes }
    }

    pub fn expose(&self) -> &[u8; 32] {
        &self.bytes
    }

    /// A name for this key that gives nothing of it away.
    pub fn fingerprint(&self) -> String {
        let digest =
            digest::digest(&digest::SHA256, &[b"tollgate fingerprint\0".as_slice(), &self.bytes].concat());
        hex(&digest.as_ref()[..16])
    }
}

impl Drop for MasterKey {
    fn drop(&mut self) {
        self.bytes.zeroize();
    }
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MasterKey(version {})", self.version)
    }
}

/// All versions of the installation's two master keys. The newest of each is used for what is new.
#[derive(Clone, Debug)]
pub struct Keyring {
    /// Ascending by version, never empty.
    pub peppers: Vec<Pepper>,
    /// Key-encryption keys, ascending by version, never empty.
    pub encryption: Vec<MasterKey>,
}

impl Keyring {
    pub fn pepper(&self) -> &Pepper {
        self.peppers.last().expect("a keyring has a pepper")
    }

    pub fn pepper_of(&self, version: i64) -> Option<&Pepper> {
        self.peppers.iter().find(|pepper| pepper.key.version == version)
    }

    pub fn encryption_key(&self) -> &MasterKey {
        self.encryption.last().expect("a keyring has an encryption key")
    }

    pub fn encryption_key_of(&self, version: i64) -> Option<&MasterKey> {
        self.encryption.iter().find(|key| key.version == version)
    }
}

/// A master key prepared to verify API keys.
#[derive(Clone)]
pub struct Pepper {
    pub key: MasterKey,
    prepared: hmac::Key,
}

impl Pepper {
    pub fn new(key: MasterKey) -> Self {
        let prepared = hmac::Key::new(hmac::HMAC_SHA256, key.expose());
        Self { key, prepared }
    }

    /// What is stored of an API key: HMAC-SHA-256 of the whole text.
    pub fn verifier(&self, key_text: &str) -> [u8; 32] {
        let tag = hmac::sign(&self.prepared, key_text.as_bytes());
        let mut verifier = [0; 32];
        verifier.copy_from_slice(tag.as_ref());
        verifier
    }

    /// Whether `key_text` is the key behind `verifier`, in constant time.
    pub fn verifies(&self, key_text: &str, verifier: &[u8; 32]) -> bool {
        hmac::verify(&self.prepared, key_text.as_bytes(), verifier).is_ok()
    }
}

impl fmt::Debug for Pepper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.key.fmt(f)
    }
}

pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut sum = [0; 32];
    sum.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    sum
}

pub fn hex(bytes: &[u8]) -> String {
    use fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_cannot_be_printed() {
        let secret = Secret::new("sk-tgproj-hidden");
        assert_eq!(format!("{secret:?}"), "[secret]");
        assert_eq!(format!("{:?}", ShownOnce(secret.clone())), "ShownOnce([secret])");
        let pepper = Pepper::new(MasterKey::from_bytes(3, [7; 32]));
        assert_eq!(format!("{pepper:?}"), "MasterKey(version 3)");
    }

    #[test]
    fn a_verifier_knows_its_key_and_no_other() {
        let pepper = Pepper::new(MasterKey::generate(1));
        let verifier = pepper.verifier("one");
        assert!(pepper.verifies("one", &verifier));
        assert!(!pepper.verifies("two", &verifier));
        assert!(!Pepper::new(MasterKey::generate(1)).verifies("one", &verifier));
    }
}
