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

/// A token that is stored nowhere: what it says, with a seal that only who has the secrets file can make.
pub(crate) fn sealed(keyring: &Keyring, purpose: &str, said: &str) -> Secret {
    Secret::new(format!("{said}.{}", hex(&keyring.pepper().verifier(&bound(purpose, said)))))
}

/// What a sealed token says.
pub(crate) fn unsealed<'t>(keyring: &Keyring, purpose: &str, token: &'t str) -> Option<&'t str> {
    let (said, seal) = token.rsplit_once('.').filter(|_| token.len() <= LENGTH_MAX)?;
    let tag = seal_bytes(seal)?;
    let bound = bound(purpose, said);
    keyring.peppers.iter().any(|pepper| pepper.verifies(&bound, &tag)).then_some(said)
}

fn seal_bytes(seal: &str) -> Option<[u8; 32]> {
    let mut tag = [0; 32];
    if seal.len() != 2 * tag.len() || !seal.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    for (byte, at) in tag.iter_mut().zip((0..).step_by(2)) {
        *byte = u8::from_str_radix(seal.get(at..at + 2)?, 16).ok()?;
    }
    Some(tag)
}

fn bound(purpose: &str, token: &str) -> String {
    format!("tollgate {purpose}\0{token}")
}

#[cfg(test)]
mod tests {
    use tollgate_core::secret::{MasterKey, Pepper};

    use super::*;

    #[test]
    fn a_seal_is_of_its_words_purpose_and_secrets() {
        let of = |byte| Pepper::new(MasterKey::from_bytes(i64::from(byte), [byte; 32]));
        let ring = |bytes: &[u8]| Keyring {
            peppers: bytes.iter().copied().map(of).collect(),
            encryption: Vec::new(),
        };
        let token = sealed(&ring(&[1]), "link", "user.7");
        let token = token.reveal();
        assert_eq!(unsealed(&ring(&[1]), "link", token), Some("user.7"));
        // An older pepper verifies what it has sealed.
        assert_eq!(unsealed(&ring(&[1, 2]), "link", token), Some("user.7"));
        assert_eq!(unsealed(&ring(&[2]), "link", token), None);
        assert_eq!(unsealed(&ring(&[1]), "session", token), None);
        for at in 0..token.len() {
            let mut changed = token.to_owned().into_bytes();
            changed[at] = if changed[at] == b'1' { b'2' } else { b'1' };
            let changed = String::from_utf8(changed).unwrap();
            assert_eq!(unsealed(&ring(&[1]), "link", &changed), None, "{changed}");
        }
        for other in ["", ".", "user.7", "user.7.", "user.7.+f", &format!("{token}0"), &token.repeat(9)] {
            assert_eq!(unsealed(&ring(&[1]), "link", other), None, "{other}");
        }
    }
}
