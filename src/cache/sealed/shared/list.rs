//! What is worth asking again, as bytes for all of a group: a body of `warm/list.rs` in the same
//! envelope as an entry, as layout 5.

use super::{HEAD_BYTES, NONCE_LEN, SALT_BYTES, SharedSeal, TAG_BYTES, Unsealed};

const LAYOUT: u8 = 5;

/// Longest body; about a thousand statements.
pub const LIST_BYTES_MAX: usize = 1 << 20;

impl SharedSeal {
    /// Where it lies, beside K of this name.
    pub fn list_name(k: &str) -> String {
        format!("{k}:w")
    }

    pub fn list_sealed_bytes_max() -> usize {
        HEAD_BYTES + SALT_BYTES + NONCE_LEN + LIST_BYTES_MAX + TAG_BYTES
    }

    /// `None` if it is over the bound.
    pub fn seal_list(&self, k: &str, body: Vec<u8>) -> Option<Vec<u8>> {
        let fits = body.len() <= LIST_BYTES_MAX;
        fits.then(|| self.encipher(LAYOUT, body, k.as_bytes())).flatten()
    }

    pub fn open_list(&self, k: &str, sealed: &[u8]) -> Result<Vec<u8>, Unsealed> {
        if sealed.len() > Self::list_sealed_bytes_max() {
            return Err(Unsealed::Malformed);
        }
        self.decipher(LAYOUT, sealed, k.as_bytes(), LIST_BYTES_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seal(secret: &[u8], salt: u8) -> SharedSeal {
        SharedSeal::new(secret, [salt; SALT_BYTES], 1 << 20, 1024)
    }

    #[test]
    fn a_list_is_opened_by_who_has_the_secret_where_it_was_put_unchanged() {
        let (one, other, stranger) = (seal(b"s", 1), seal(b"s", 2), seal(b"t", 3));
        for body in [b"".to_vec(), b"body".to_vec(), vec![7; LIST_BYTES_MAX]] {
            let sealed = one.seal_list("fb:{g}", body.clone()).unwrap();
            assert_eq!(other.open_list("fb:{g}", &sealed), Ok(body));
            assert_eq!(other.open_list("fb:{h}", &sealed), Err(Unsealed::Forged));
            assert_eq!(stranger.open_list("fb:{g}", &sealed), Err(Unsealed::Forged));
        }
        assert_eq!(one.seal_list("k", vec![7; LIST_BYTES_MAX + 1]), None);
        let sealed = one.seal_list("k", b"body".to_vec()).unwrap();
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert!(other.open_list("k", &changed).is_err(), "{at}");
            assert!(other.open_list("k", &sealed[..at]).is_err(), "{at}");
        }
        let layout_of_entries = one.encipher(super::super::LAYOUT, b"body".to_vec(), b"k").unwrap();
        assert_eq!(other.open_list("k", &layout_of_entries), Err(Unsealed::Malformed));
    }
}
