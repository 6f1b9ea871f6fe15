//! SCRAM-SHA-256 verifiers, made here so that a clear password is never in SQL, a log or a view (RFC 5802, RFC 7677).

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256};

const ITERATIONS: u32 = 4096;
const SALT_BYTES: usize = 16;
/// More than PostgreSQL writes by default by far; a verifier that asks for more is replaced, not computed.
const ITERATIONS_CHECKED: u32 = 1_000_000;
const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// What `pg_authid.rolpassword` holds for this password, with a new salt.
///
/// # Errors
/// When the system gives no random bytes.
pub(super) fn verifier(password: &str) -> Result<String, getrandom::Error> {
    let mut salt = [0; SALT_BYTES];
    getrandom::fill(&mut salt)?;
    Ok(verifier_with(password, &salt, ITERATIONS))
}

/// True when `stored` was made from `password`. Other kinds (md5) are never "the same": they are replaced.
pub(super) fn matches(stored: &str, password: &str) -> bool {
    let parts = || {
        let (iterations, salt) = stored
            .strip_prefix("SCRAM-SHA-256$")?
            .split_once('$')?
            .0
            .split_once(':')?;
        let iterations: u32 = iterations
            .parse()
            .ok()
            .filter(|i| (1..=ITERATIONS_CHECKED).contains(i))?;
        Some((iterations, from_base64(salt)?))
    };
    parts().is_some_and(|(iterations, salt)| verifier_with(password, &salt, iterations) == stored)
}

fn verifier_with(password: &str, salt: &[u8], iterations: u32) -> String {
    // As server and libpq do: what SASLprep does not take is used as it is.
    let prepared = stringprep::saslprep(password).unwrap_or(std::borrow::Cow::Borrowed(password));
    let salted = salted_password(prepared.as_bytes(), salt, iterations);
    let client_key = hmac(&salted, &[b"Client Key"]);
    let stored_key = Sha256::digest(client_key);
    let server_key = hmac(&salted, &[b"Server Key"]);
    format!(
        "SCRAM-SHA-256${iterations}:{}${}:{}",
        base64(salt),
        base64(&stored_key),
        base64(&server_key)
    )
}

/// Hi() of RFC 5802.
fn salted_password(password: &[u8], salt: &[u8], iterations: u32) -> [u8; 32] {
    let mut last = hmac(password, &[salt, &1u32.to_be_bytes()]);
    let mut sum = last;
    for _ in 1..iterations {
        last = hmac(password, &[&last]);
        for (s, l) in sum.iter_mut().zip(last) {
            *s ^= l;
        }
    }
    sum
}

#[expect(clippy::expect_used, reason = "HMAC takes keys of any length")]
fn hmac(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

/// Base64 with padding (RFC 4648).
pub(crate) fn base64(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let byte = |i: usize| u32::from(chunk.get(i).copied().unwrap_or(0));
        let group = byte(0) << 16 | byte(1) << 8 | byte(2);
        for digit in 0..4 {
            if digit <= chunk.len() {
                text.push(char::from(DIGITS[(group >> (18 - 6 * digit) & 63) as usize]));
            } else {
                text.push('=');
            }
        }
    }
    text
}

fn from_base64(text: &str) -> Option<Vec<u8>> {
    let digits = text.trim_end_matches('=');
    let (mut bytes, mut held, mut bits) = (Vec::with_capacity(digits.len()), 0u32, 0u32);
    for digit in digits.bytes() {
        let value = DIGITS.iter().position(|&d| d == digit)?;
        held = (held << 6 | u32::try_from(value).ok()?) & 0xFFFF;
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.push(u8::try_from(held >> bits & 0xFF).ok()?);
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_goes_there_and_back() {
        for (bytes, text) in [
            (&b""[..], ""),
            (b"f", "Zg=="),
            (b"fo", "Zm8="),
            (b"foo", "Zm9v"),
            (b"\xFF\xFE\xFD\xFC", "//79/A=="),
        ] {
            assert_eq!(base64(bytes), text);
            assert_eq!(from_base64(text).as_deref(), Some(bytes));
        }
        assert_eq!(from_base64("a*b="), None);
    }

    #[test]
    fn a_verifier_matches_its_password_only() {
        let made = verifier("it's a \"sécret\"").expect("random bytes");
        assert!(matches(&made, "it's a \"sécret\""), "{made}");
        assert!(!matches(&made, "other"));
        assert!(!matches("md5abcdef", "other"));
        assert!(
            !matches("SCRAM-SHA-256$99999999:AAAA$x:y", "other"),
            "refused without computing it"
        );
    }

    #[test]
    fn the_example_of_rfc_7677_comes_out() {
        // RFC 7677, section 3: user "user", password "pencil", this salt, 4096 iterations; its server signature is made with this key.
        let salt = from_base64("W22ZaJ0SNY7soEsUEjb6gQ==").expect("base64");
        let salted = salted_password(b"pencil", &salt, 4096);
        let server_key = hmac(&salted, &[b"Server Key"]);
        let auth = "n=user,r=rOprNGfwEbeRWgbNEkqO,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                    s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
        assert_eq!(
            base64(&hmac(&server_key, &[auth.as_bytes()])),
            "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="
        );
    }
}
