//! The legacy md5 method, both ways: what is stored, the answer to a challenge, and its check.
//! The server stores `md5` + md5(password + user); the answer hashes that again with four bytes.

use std::fmt;

use postgres_protocol::password;
use subtle::ConstantTimeEq;

const PREFIX: &str = "md5";
const DIGITS: usize = 32;

/// What PostgreSQL stores for a user: 32 hexadecimal digits. Whoever has them can log in, so
/// they are as secret as a password.
#[derive(Clone, PartialEq, Eq)]
pub struct Md5Hash([u8; DIGITS]);

impl Md5Hash {
    /// The hash in its stored form, `md5` and 32 lower-case digits; `None` for anything else,
    /// which is then a password that happens to begin with these letters, as in PostgreSQL.
    pub fn parse(secret: &str) -> Option<Self> {
        let digits: [u8; DIGITS] = secret.strip_prefix(PREFIX)?.as_bytes().try_into().ok()?;
        digits
            .iter()
            .all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
            .then_some(Self(digits))
    }

    /// The hash of nothing that anybody knows. A fixed one would not do: who knows the hash can
    /// answer a challenge.
    pub fn impossible() -> Self {
        Self::hash(&rand::random::<[u8; 32]>(), &[])
    }

    pub fn of_password(user: &str, password: &[u8]) -> Self {
        Self::hash(password, user.as_bytes())
    }

    /// The answer to an `AuthenticationMD5Password` challenge, without the closing zero byte.
    pub fn answer(&self, salt: [u8; 4]) -> String {
        let Self(digits) = Self::hash(&self.0, &salt);
        let mut answer = String::with_capacity(PREFIX.len() + DIGITS);
        answer.push_str(PREFIX);
        answer.extend(digits.map(char::from));
        answer
    }

    /// Whether `answer` is right for this challenge, in time that does not depend on it.
    pub fn accepts(&self, salt: [u8; 4], answer: &[u8]) -> bool {
        self.answer(salt).as_bytes().ct_eq(answer).into()
    }

    pub fn accepts_password(&self, user: &str, password: &[u8]) -> bool {
        self.0.ct_eq(&Self::of_password(user, password).0).into()
    }

    fn hash(left: &[u8], right: &[u8]) -> Self {
        // The library appends a user name, which must be text; salts are not, so both parts go
        // in as the password.
        let hashed = password::md5(&[left, right].concat(), "");
        let mut digits = [0; DIGITS];
        for (to, from) in digits.iter_mut().zip(hashed.bytes().skip(PREFIX.len())) {
            *to = from;
        }
        Self(digits)
    }
}

impl fmt::Debug for Md5Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Md5Hash(…)")
    }
}

#[cfg(test)]
mod tests {
    use postgres_protocol::authentication::md5_hash;

    use super::*;

    const SALT: [u8; 4] = [0x2a, 0x3d, 0x8f, 0xe0];

    #[test]
    fn an_answer_is_the_one_the_driver_computes() {
        let answer = Md5Hash::of_password("md5_user", b"password").answer(SALT);
        assert_eq!(answer, "md562af4dd09bbb41884907a838a3233294");
        assert_eq!(answer, md5_hash(b"md5_user", b"password", SALT));
    }

    #[test]
    fn the_stored_form_answers_like_the_password() {
        // SELECT 'md5' || md5('secret' || 'bob')
        let stored = Md5Hash::parse("md521f3163f8f86fa10bdefbfbd502a8f06");
        assert_eq!(stored, Some(Md5Hash::of_password("bob", b"secret")));
    }

    #[test]
    fn only_lower_case_digits_of_the_right_number_are_a_hash() {
        for text in [
            "",
            "md5",
            "md521F3163F8F86FA10BDEFBFBD502A8F06",
            "md521f3163f8f86fa10bdefbfbd502a8f0",
            "md521f3163f8f86fa10bdefbfbd502a8f06f",
            "md5g1f3163f8f86fa10bdefbfbd502a8f06",
            "MD521f3163f8f86fa10bdefbfbd502a8f06",
        ] {
            assert_eq!(Md5Hash::parse(text), None, "{text}");
        }
    }

    #[test]
    fn an_impossible_hash_is_another_each_time() {
        assert!(Md5Hash::impossible() != Md5Hash::impossible());
    }

    #[test]
    fn every_wrong_answer_is_refused() {
        let hash = Md5Hash::of_password("md5_user", b"password");
        let right = hash.answer(SALT);
        assert!(hash.accepts(SALT, right.as_bytes()));
        assert!(!hash.accepts([0; 4], right.as_bytes()));
        for end in 0..right.len() {
            assert!(!hash.accepts(SALT, &right.as_bytes()[..end]));
        }
        for index in 0..right.len() {
            let mut wrong = right.clone().into_bytes();
            wrong[index] ^= 1;
            assert!(!hash.accepts(SALT, &wrong));
        }
        assert!(hash.accepts_password("md5_user", b"password"));
        assert!(!hash.accepts_password("md5_user", b"Password"));
        assert!(!hash.accepts_password("other", b"password"));
    }

    #[test]
    fn debug_output_keeps_the_secret() {
        let shown = format!("{:?}", Md5Hash::of_password("bob", b"secret"));
        assert!(!shown.contains("21f3"), "{shown}");
    }
}
