//! Names and numbers by which lanes, tenants and secrets are known.
//!
//! Text from outside becomes one of these or an error; no path is ever built from one, so that a
//! name like `../x` is nothing but a name that was refused.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use thiserror::Error;

/// Longest name of a lane or a tenant, in characters.
pub const NAME_MAX: usize = 63;

/// A lane's number: unique for ever, 32 hexadecimal digits as text.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LaneId(pub u128);

/// A number that must not be printed: a ticket, a token, a nonce.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Secret(pub u128);

/// A name of a lane or a tenant: 1 to 63 of `a-z`, `0-9` and `-`, with a letter or digit first
/// and last.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
#[serde(transparent)]
pub struct Name(String);

/// Why a text is no name.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum NameError {
    /// Nothing.
    #[error("it is empty")]
    Empty,
    /// Too long.
    #[error("it has {length} characters, at most {NAME_MAX} are allowed")]
    TooLong {
        /// Its length, in bytes.
        length: usize,
    },
    /// A character outside the alphabet.
    #[error("character {position} is {}, allowed are a-z, 0-9 and '-'", shown(*found))]
    Character {
        /// Which, counted from 1.
        position: usize,
        /// The character.
        found: char,
    },
    /// A hyphen at an end.
    #[error("it starts or ends with '-'")]
    Hyphen,
}

/// A character as an error may print it: nothing from a caller reaches a terminal unescaped.
fn shown(found: char) -> String {
    if found.is_ascii_graphic() { format!("'{found}'") } else { found.escape_unicode().to_string() }
}

impl Name {
    /// Parses a name.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        if text.len() > NAME_MAX {
            return Err(NameError::TooLong { length: text.len() });
        }
        for (index, found) in text.chars().enumerate() {
            if !matches!(found, 'a'..='z' | '0'..='9' | '-') {
                return Err(NameError::Character { position: index + 1, found });
            }
        }
        if text.starts_with('-') || text.ends_with('-') {
            return Err(NameError::Hyphen);
        }
        Ok(Self(text.to_owned()))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(de::Error::custom)
    }
}

/// 32 hexadecimal digits as a number.
#[must_use]
pub fn parse_hex(text: &str) -> Option<u128> {
    let digits = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    digits.then(|| u128::from_str_radix(text, 16).ok()).flatten()
}

impl fmt::Display for LaneId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for LaneId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Writes and reads a number as 32 hexadecimal digits.
macro_rules! serde_as_hex {
    ($($type:ident),*) => {$(
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(&format_args!("{:032x}", self.0))
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                let number = parse_hex(&text);
                number.map(Self).ok_or_else(|| de::Error::custom("not 32 hexadecimal digits"))
            }
        }
    )*};
}
serde_as_hex!(LaneId, Secret);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_from_hostile_callers_are_refused_one_by_one() {
        for (text, expected) in [
            ("", NameError::Empty),
            ("-a", NameError::Hyphen),
            ("a-", NameError::Hyphen),
            ("-", NameError::Hyphen),
            ("../etc", NameError::Character { position: 1, found: '.' }),
            ("a/b", NameError::Character { position: 2, found: '/' }),
            ("a\0b", NameError::Character { position: 2, found: '\0' }),
            ("a\nb", NameError::Character { position: 2, found: '\n' }),
            ("a\u{1b}[31m", NameError::Character { position: 2, found: '\u{1b}' }),
            ("a\u{202e}b", NameError::Character { position: 2, found: '\u{202e}' }),
            ("Orders", NameError::Character { position: 1, found: 'O' }),
            ("\u{430}dmin", NameError::Character { position: 1, found: '\u{430}' }),
            ("e\u{301}", NameError::Character { position: 2, found: '\u{301}' }),
        ] {
            assert_eq!(Name::parse(text), Err(expected), "{text:?}");
        }
        assert!(Name::parse(&"a".repeat(63)).is_ok());
        assert_eq!(Name::parse(&"a".repeat(64)), Err(NameError::TooLong { length: 64 }));
    }

    #[test]
    fn refusals_print_no_control_characters() {
        for text in ["a\u{1b}[31m", "a\nb", "a\u{202e}b"] {
            let message = Name::parse(text).unwrap_err().to_string();
            assert!(message.chars().all(|c| !c.is_control() && c.is_ascii()), "{message:?}");
        }
    }

    #[test]
    fn secrets_do_not_show_in_debug_output() {
        assert_eq!(format!("{:?}", Secret(0xdead_beef)), "Secret(..)");
    }

    #[test]
    fn numbers_survive_as_hexadecimal_text() {
        let id = LaneId(0x0123_4567_89ab_cdef);
        let text = serde_json::to_string(&id).unwrap();
        assert_eq!(text, "\"00000000000000000123456789abcdef\"");
        assert_eq!(serde_json::from_str::<LaneId>(&text).unwrap(), id);
        assert!(parse_hex("+0000000000000000123456789abcdef").is_none());
    }
}
