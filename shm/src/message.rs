//! Messages that are values: what a type must be, and the identity of its layout.
//!
//! A type qualifies if it is valid for every bit pattern, which is what makes a hostile peer's
//! bytes harmless, and has no padding, which is what keeps this process's secrets out of the lane.
//! `zerocopy` proves both when the program is compiled. Knows nothing of rings.
//!
//! # Schema
//!
//! Two programs agree on a message by 64 bits that are computed from what its author wrote and
//! never from a compiler's name for it, so that any language can compute the same: FNV-1a (offset
//! basis `cbf29ce484222325`, prime `100000001b3`, numbers as eight bytes, little-endian) over
//!
//! | of | bytes |
//! |---|---|
//! | a number | its name: `u8` to `u128`, `i8` to `i128`, `f32`, `f64` |
//! | an array | `[]`, the schema of its element, the number of elements |
//! | a structure | its name, a zero byte, its size; then its fields in order |
//! | a field | its name, a zero byte, its schema, its offset, its size |
//!
//! A result of 0, which means "no schema" on the wire, is replaced by 1.

use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

use crate::by_value::ByValue;

/// Something with a schema: a message, or a field of one.
pub trait Schema {
    /// Identity of the layout: see the table in [`mod@crate::message`].
    const SCHEMA: u64;
}

/// A type whose values are messages. [`message!`](crate::message!) makes one.
///
/// ```
/// laneway_shm::message! {
///     /// One price.
///     pub struct Quote {
///         /// In ticks.
///         pub price: u64,
///         pub size: u32,
///         pub venue: [u8; 4],
///     }
/// }
/// ```
///
/// By hand, for a type that derives `zerocopy`'s traits anyway: `SCHEMA` from [`structure`], and
/// `type Bytes = [u8; size_of::<Quote>()]`.
pub trait Message: Schema + Copy + FromBytes + IntoBytes + Immutable + KnownLayout {
    /// `[u8; size_of::<Self>()]`: the language cannot say so for every type at once.
    type Bytes: Bytes;
}

/// Arrays of bytes of every length.
pub trait Bytes: ByValue {}

impl<const N: usize> Bytes for [u8; N] {}

/// A field, as it goes into its structure's schema.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// Name.
    pub name: &'static str,
    /// Schema of its type.
    pub schema: u64,
    /// Offset in the structure, in bytes.
    pub offset: usize,
    /// Size, in bytes.
    pub size: usize,
}

/// Schema of a structure.
#[must_use]
pub const fn structure(name: &str, size: usize, fields: &[Field]) -> u64 {
    let mut hash = number(text(text(BASIS, name), "\0"), size as u64);
    let mut index = 0;
    while index < fields.len() {
        let field = &fields[index];
        hash = number(text(text(hash, field.name), "\0"), field.schema);
        hash = number(number(hash, field.offset as u64), field.size as u64);
        index += 1;
    }
    never_zero(hash)
}

const BASIS: u64 = 0xcbf2_9ce4_8422_2325;
const PRIME: u64 = 0x0100_0000_01b3;

const fn text(hash: u64, text: &str) -> u64 {
    bytes(hash, text.as_bytes())
}

const fn number(hash: u64, number: u64) -> u64 {
    bytes(hash, &number.to_le_bytes())
}

const fn bytes(mut hash: u64, bytes: &[u8]) -> u64 {
    let mut index = 0;
    while index < bytes.len() {
        hash = (hash ^ bytes[index] as u64).wrapping_mul(PRIME);
        index += 1;
    }
    hash
}

const fn never_zero(hash: u64) -> u64 {
    if hash == 0 { 1 } else { hash }
}

impl<T: Schema, const N: usize> Schema for [T; N] {
    const SCHEMA: u64 = never_zero(number(number(text(BASIS, "[]"), T::SCHEMA), N as u64));
}

macro_rules! numbers {
    ($($number:ident)*) => {$(
        impl Schema for $number {
            const SCHEMA: u64 = never_zero(text(BASIS, stringify!($number)));
        }

        impl Message for $number {
            type Bytes = [u8; size_of::<$number>()];
        }
    )*};
}

numbers! { u8 u16 u32 u64 u128 i8 i16 i32 i64 i128 f32 f64 }

/// Defines a structure whose values are messages.
///
/// The fields may be numbers, arrays, and other messages. The layout is C's; a layout with padding
/// does not compile, and a field in its place is the remedy. The structure's name is part of its
/// schema; `as "…"` gives it another one there, so that programs may name their types as they like:
///
/// ```
/// use laneway_shm::message::Schema;
///
/// laneway_shm::message! {
///     #[derive(PartialEq)]
///     pub struct Reading as "acme.Reading" {
///         pub at_ns: u64,
///         pub celsius: f32,
///         pub sensor: u32,
///     }
/// }
/// assert_ne!(Reading::SCHEMA, 0);
/// ```
#[macro_export]
macro_rules! message {
    (
        $(#[$attribute:meta])*
        $visible:vis struct $name:ident $(as $known_as:literal)? {
            $($(#[$field_attribute:meta])* $field_visible:vis $field:ident : $type:ty),+ $(,)?
        }
    ) => {
        $(#[$attribute])*
        #[derive(
            Clone, Copy, Debug,
            $crate::zerocopy::FromBytes, $crate::zerocopy::IntoBytes,
            $crate::zerocopy::Immutable, $crate::zerocopy::KnownLayout,
        )]
        #[zerocopy(crate = "laneway_shm::zerocopy")]
        #[repr(C)]
        $visible struct $name {
            $($(#[$field_attribute])* $field_visible $field: $type),+
        }

        impl $crate::message::Schema for $name {
            const SCHEMA: u64 = $crate::message::structure(
                $crate::message!(@name $name $($known_as)?),
                ::core::mem::size_of::<$name>(),
                &[$($crate::message::Field {
                    name: stringify!($field),
                    schema: <$type as $crate::message::Schema>::SCHEMA,
                    offset: ::core::mem::offset_of!($name, $field),
                    size: ::core::mem::size_of::<$type>(),
                }),+],
            );
        }

        impl $crate::message::Message for $name {
            type Bytes = [u8; ::core::mem::size_of::<$name>()];
        }
    };
    (@name $name:ident) => { stringify!($name) };
    (@name $name:ident $known_as:literal) => { $known_as };
}

/// What only a `Message` that was written by hand can get wrong: it does not compile then.
pub(crate) const fn check<T: Message>() {
    assert!(size_of::<T>() == size_of::<T::Bytes>(), "`Bytes` has the message's size");
    assert!(size_of::<T>() > 0, "a message has a byte at least");
}

/// A message's bytes, by value.
#[inline(always)]
pub(crate) fn to_bytes<T: Message>(message: &T) -> T::Bytes {
    const { check::<T>() };
    let mut bytes = T::Bytes::new_zeroed();
    bytes.as_mut_bytes().copy_from_slice(message.as_bytes());
    bytes
}

/// The message of some bytes, by value.
#[inline(always)]
pub(crate) fn from_bytes<T: Message>(bytes: T::Bytes) -> T {
    const { check::<T>() };
    let mut message = T::new_zeroed();
    message.as_mut_bytes().copy_from_slice(bytes.as_bytes());
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    crate::message! {
        #[derive(PartialEq)]
        struct Point { x: u32, y: u32 }
    }

    crate::message! {
        #[derive(PartialEq)]
        struct Track as "acme.Track" { id: u64, points: [Point; 3] }
    }

    /// The documented recipe, once more and naively.
    fn by_the_book(parts: &[&[u8]]) -> u64 {
        parts.concat().iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        })
    }

    #[test]
    fn schemas_are_what_the_documentation_says_and_stay_so() {
        let le = |number: u64| number.to_le_bytes();
        assert_eq!(u32::SCHEMA, by_the_book(&[b"u32"]));
        let array = by_the_book(&[b"[]", &le(u16::SCHEMA), &le(5)]);
        assert_eq!(<[u16; 5]>::SCHEMA, array);
        let x = [&b"x\0"[..], &le(u32::SCHEMA), &le(0), &le(4)].concat();
        let y = [&b"y\0"[..], &le(u32::SCHEMA), &le(4), &le(4)].concat();
        assert_eq!(Point::SCHEMA, by_the_book(&[b"Point\0", &le(8), &x, &y]));
        // Frozen: programs of other versions and languages compare with these very numbers.
        assert_eq!(u32::SCHEMA, 0x4d2b_df19_3e85_26d1);
        assert_eq!(Point::SCHEMA, 0x7782_8f02_7830_0142);
        assert_eq!(Track::SCHEMA, 0xb8c5_dd80_bb38_bb5a);
    }

    #[test]
    fn every_difference_in_name_order_type_or_place_is_another_schema() {
        let field = |name, schema, offset, size| Field { name, schema, offset, size };
        let base = [field("a", u32::SCHEMA, 0, 4), field("b", u32::SCHEMA, 4, 4)];
        let swapped = [field("b", u32::SCHEMA, 0, 4), field("a", u32::SCHEMA, 4, 4)];
        let retyped = [field("a", i32::SCHEMA, 0, 4), field("b", u32::SCHEMA, 4, 4)];
        let mut all = vec![
            structure("s", 8, &base),
            structure("t", 8, &base),
            structure("s", 8, &swapped),
            structure("s", 8, &retyped),
            structure("s", 12, &base),
            structure("s", 8, &base[..1]),
            u64::SCHEMA,
            f64::SCHEMA,
            <[u32; 2]>::SCHEMA,
            <[u32; 3]>::SCHEMA,
            <[[u32; 1]; 2]>::SCHEMA,
            Point::SCHEMA,
            Track::SCHEMA,
        ];
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 13);
    }

    #[test]
    fn a_message_survives_its_bytes() {
        let points = [Point { x: 1, y: 2 }, Point { x: 3, y: 4 }, Point { x: 5, y: u32::MAX }];
        let track = Track { id: 7, points };
        assert_eq!(from_bytes::<Track>(to_bytes(&track)), track);
        assert_eq!(to_bytes(&0x0102_0304u32), 0x0102_0304u32.to_ne_bytes());
    }
}
