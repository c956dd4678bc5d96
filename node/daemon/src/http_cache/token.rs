//! The token that a tool must show, and the ways of showing it.
//!
//! It may come as a bearer token, as the password of Basic authentication under any user name, or as the first
//! segment of the path, for tools that can be given nothing but a URL. All are compared by their digests: how long that
//! takes says nothing of how much was right.

use std::os::unix::fs::PermissionsExt as _;

use data_encoding::{BASE64, HEXLOWER};
use hyper::{
    HeaderMap,
    header::{AUTHORIZATION, HeaderValue},
};

use crate::home::{Home, HomeError};

/// Random bytes in a token that is made here.
const RANDOM_BYTES: usize = 32;
/// Shortest and longest token that an owner may choose, in characters.
const LENGTHS: std::ops::RangeInclusive<usize> = 16..=128;

/// A token, as its digest.
pub(super) struct Token(blake3::Hash);

impl Token {
    /// The token in the state directory; made at the first call.
    ///
    /// # Errors
    /// When the file is readable by others, damaged, or cannot be read or written.
    pub(super) fn of(home: &Home) -> Result<Self, HomeError> {
        let path = home.http_cache_token_path();
        let Some(bytes) = home.read_if_there(&path)? else {
            let text = HEXLOWER.encode(&rand::random::<[u8; RANDOM_BYTES]>());
            home.replace(&path, format!("{text}\n").as_bytes(), 0o600)?;
            return Ok(Self::from_text(&text));
        };
        let metadata = std::fs::metadata(&path).map_err(|source| HomeError::Io {
            action: "read",
            path: path.clone(),
            source,
        })?;
        if metadata.permissions().mode() & 0o077 != 0 {
            return Err(HomeError::OpenKey(path));
        }
        match std::str::from_utf8(&bytes).map(str::trim_ascii) {
            Ok(text) if is_sound(text) => Ok(Self::from_text(text)),
            _ => Err(HomeError::Damaged(path)),
        }
    }

    pub(super) fn from_text(text: &str) -> Self {
        Self(blake3::hash(text.as_bytes()))
    }

    /// The path behind the token if the request shows the token, there or in a header.
    pub(super) fn admit<'a>(&self, headers: &HeaderMap, path: &'a str) -> Option<&'a str> {
        let rest = path.strip_prefix('/')?;
        let (first, behind) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
        if self.is(first.as_bytes()) {
            return Some(behind);
        }
        let shown = headers.get(AUTHORIZATION).is_some_and(|value| self.is_in(value));
        shown.then_some(path)
    }

    fn is_in(&self, value: &HeaderValue) -> bool {
        let Some((scheme, rest)) = value.to_str().ok().and_then(|value| value.split_once(' ')) else {
            return false;
        };
        let rest = rest.trim_ascii();
        if scheme.eq_ignore_ascii_case("bearer") {
            return self.is(rest.as_bytes());
        }
        if !scheme.eq_ignore_ascii_case("basic") {
            return false;
        }
        let decoded = BASE64.decode(rest.as_bytes()).unwrap_or_default();
        let password = decoded.iter().position(|byte| *byte == b':').map(|colon| &decoded[colon + 1..]);
        password.is_some_and(|password| self.is(password))
    }

    /// `blake3::Hash` compares in constant time.
    fn is(&self, shown: &[u8]) -> bool {
        blake3::hash(shown) == self.0
    }
}

/// Whether a token can stand in a URL and a header, and is not a joke.
fn is_sound(text: &str) -> bool {
    LENGTHS.contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const TEXT: &str = "0123456789abcdef";

    #[test]
    fn the_token_is_shown_in_three_ways() {
        let check = |path: &str, authorization: &str, expected: Option<&str>| {
            let mut headers = HeaderMap::new();
            if !authorization.is_empty() {
                headers.insert(AUTHORIZATION, authorization.parse().unwrap());
            }
            let found = Token::from_text(TEXT).admit(&headers, path);
            assert_eq!(found, expected, "{path} {authorization}");
        };
        let basic = |text: &str| format!("Basic {}", BASE64.encode(text.as_bytes()));
        let path = "/ccache/x";
        check(path, "", None);
        check(path, &format!("Bearer {TEXT}"), Some(path));
        check(path, &format!("bearer  {TEXT} "), Some(path));
        check(path, &format!("Bearer {TEXT}0"), None);
        check(path, &format!("Bearer {}", &TEXT[1..]), None);
        check(path, "Bearer", None);
        check(path, "Bearer ", None);
        check(path, &format!("Digest {TEXT}"), None);
        check(path, &basic(&format!("barn:{TEXT}")), Some(path));
        check(path, &basic(&format!(":{TEXT}")), Some(path));
        check(path, &basic(&format!("{TEXT}:")), None);
        check(path, &basic(TEXT), None);
        check(path, "Basic !", None);
        check("/0123456789abcdef/ccache/x", "", Some(path));
        check("/0123456789abcdef", "", Some(""));
        check("/0123456789abcdeg/ccache/x", "", None);
        check("0123456789abcdef", "", None);
        check("*", &format!("Bearer {TEXT}"), None);
    }

    #[test]
    fn the_token_is_made_once_and_kept_secret() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::open(dir.path()).unwrap();
        let path = home.http_cache_token_path();
        let first = Token::of(&home).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text.trim_end().len(), 2 * RANDOM_BYTES);
        assert!(first.is(text.trim_end().as_bytes()));
        assert!(Token::of(&home).unwrap().is(text.trim_end().as_bytes()));
        for unsound in ["", "short", "0123456789 abcdef", "0123456789/abcdef"] {
            fs::write(&path, unsound).unwrap();
            assert!(matches!(Token::of(&home), Err(HomeError::Damaged(_))), "{unsound}");
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(Token::of(&home), Err(HomeError::OpenKey(_))));
    }
}
