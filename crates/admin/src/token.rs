//! Tokens that open one thing: in links of invites and in the cookies of people. Stored is what verifies them.

use tollgate_core::secret::{Keyring, Secret, hex, random_bytes};

/// A new token, which is nowhere else in plain.
pub(crate) struct Token {
    pub(crate) text: Secret,
    pub(crate) pepper_version: i64,
    pub(crate) verifier: [u8; 32],
}

/// No token is longer, whatever somebody sends.
const LENGTH_MAX: usize = 128;

impl Token {
    /// `purpose` is bound into it: what verifies a token verifies nothing else.
    pub(crate) fn new(keyring: &Keyring, purpose: &str) -> Self {
        let bytes: [u8; 32] = random_bytes();
        let text = Secret::new(hex(&bytes));
        let pepper = keyring.pepper();
        let verifier = pepper.verifier(&bound(purpose, text.reveal()));
        Self { pepper_version: pepper.key.version, verifier, text }
    }
}

/// What may be stored of a token, by the version of the pepper.
pub(crate) fn verifiers(keyring: &Keyring, purpose: &str, token: &str) -> Vec<(i64, Vec<u8>)> {
    if token.len() > LENGTH_MAX {
        return Vec::new();
    }
    let bound = bound(purpose, token);
    keyring.peppers.iter().map(|pepper| (pepper.key.version, pepper.verifier(&bound).to_vec())).collect()
}

fn bound(purpose: &str, token: &str) -> String {
    format!("tollgate {purpose}\0{token}")
}
