//! Encryption at rest: AES-256-GCM with a random nonce, bound by its additional data to the row it belongs to, so that
//! a ciphertext moved to another row does not open.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};

use crate::address::Address;
use crate::error::{Error, Result};
use crate::id::UpstreamId;
use crate::secret::{Keyring, MasterKey, Secret, random_bytes};

/// Seals `secret` under the newest encryption key. The result is the key's version (8 bytes), nonce, ciphertext, tag.
pub fn seal(keyring: &Keyring, bound_to: &str, secret: &Secret) -> Result<Vec<u8>> {
    let key = keyring.encryption_key();
    let nonce: [u8; NONCE_LEN] = random_bytes();
    let mut sealed = secret.reveal().as_bytes().to_vec();
    prepared(key)?
        .seal_in_place_append_tag(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(bound_to.as_bytes()),
            &mut sealed,
        )
        .map_err(|_| Error::internal("a secret could not be encrypted"))?;
    Ok([key.version.to_be_bytes().as_slice(), &nonce, &sealed].concat())
}

/// Opens what [`seal`] made for the same `bound_to`.
pub fn open(keyring: &Keyring, bound_to: &str, sealed: &[u8]) -> Result<Secret> {
    let broken = || Error::internal("a stored secret does not open with this installation's secrets file");
    let (version, rest) = sealed.split_first_chunk::<8>().ok_or_else(broken)?;
    let (nonce, ciphertext) = rest.split_first_chunk::<NONCE_LEN>().ok_or_else(broken)?;
    let key = keyring.encryption_key_of(i64::from_be_bytes(*version)).ok_or_else(broken)?;
    let mut buffer = ciphertext.to_vec();
    let text = prepared(key)?
        .open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::from(bound_to.as_bytes()), &mut buffer)
        .map_err(|_| broken())?;
    std::str::from_utf8(text).map(Secret::new).map_err(|_| broken())
}

/// What an upstream's credential is bound to: its row and the origin it was given for. It is never sent elsewhere,
/// whatever happens to the address.
pub fn upstream_binding(id: UpstreamId, address: &Address) -> String {
    format!("upstream.credential|{id}|{}", address.origin())
}

/// What an upstream's extra headers are bound to, which may have secrets in them.
pub fn upstream_headers_binding(id: UpstreamId, address: &Address) -> String {
    format!("upstream.headers|{id}|{}", address.origin())
}

fn prepared(key: &MasterKey) -> Result<LessSafeKey> {
    UnboundKey::new(&AES_256_GCM, key.expose())
        .map(LessSafeKey::new)
        .map_err(|_| Error::internal("an encryption key was refused by the cryptographic library"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Pepper;

    fn keyring() -> Keyring {
        Keyring {
            peppers: vec![Pepper::new(MasterKey::generate(1))],
            encryption: vec![MasterKey::generate(1)],
        }
    }

    #[test]
    fn what_is_sealed_opens_for_its_own_row_only() {
        let keyring = keyring();
        let sealed = seal(&keyring, "upstream|a", &Secret::new("sk-upstream")).unwrap();
        assert_eq!(open(&keyring, "upstream|a", &sealed).unwrap().reveal(), "sk-upstream");
        assert!(open(&keyring, "upstream|b", &sealed).is_err());
        assert!(!sealed.windows(5).any(|window| window == b"sk-up"));
    }

    #[test]
    fn a_credential_is_bound_to_the_origin_and_not_to_the_path() {
        let id = UpstreamId::from_bits(1);
        let binding = |url| upstream_binding(id, &Address::parse(url).unwrap());
        assert_eq!(binding("https://a.example/v1"), binding("https://a.example/v2/x"));
        assert_ne!(binding("https://a.example/v1"), binding("https://a.example.evil/v1"));
        assert_ne!(binding("https://a.example/v1"), binding("http://a.example/v1"));
        assert_ne!(binding("https://a.example/v1"), binding("https://a.example:8443/v1"));
    }

    #[test]
    fn a_changed_or_foreign_ciphertext_does_not_open() {
        let keyring = keyring();
        let sealed = seal(&keyring, "row", &Secret::new("secret")).unwrap();
        for position in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[position] ^= 1;
            assert!(open(&keyring, "row", &changed).is_err(), "position {position}");
        }
        for length in 0..sealed.len() {
            assert!(open(&keyring, "row", &sealed[..length]).is_err());
        }
        assert!(open(&self::keyring(), "row", &sealed).is_err());
    }
}
