//! Units of what a node has to give: page sizes, page counts and sets of cpus.
//!
//! Owns the arithmetic (always checked) and the kernel's cpulist notation. A naked `u64` of pages
//! or bytes never crosses a room. What can go wrong is a text or a number that names no unit; the
//! caller is told which. Does not know which machine it runs on.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// One of the page sizes a segment can be made of.
///
/// Written as a number of bytes, so that a journal or a configuration needs no second notation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct PageSize(u64);

impl PageSize {
    /// Ordinary pages; they come from the node's free memory, not from a pool.
    pub const BASE_4K: Self = Self(4 << 10);
    /// 2 MiB huge pages.
    pub const HUGE_2M: Self = Self(2 << 20);
    /// 1 GiB huge pages.
    pub const HUGE_1G: Self = Self(1 << 30);
    /// Every size there is, largest first.
    pub const ALL: [Self; 3] = [Self::HUGE_1G, Self::HUGE_2M, Self::BASE_4K];

    /// The page size of exactly `bytes`.
    ///
    /// # Errors
    /// When no page of that size is offered.
    pub fn from_bytes(bytes: u64) -> Result<Self, PageSizeError> {
        Self::ALL
            .into_iter()
            .find(|size| size.0 == bytes)
            .ok_or(PageSizeError { size_bytes: bytes })
    }

    /// The size of one page.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// Whether pages of this size come from a huge page pool.
    #[must_use]
    pub const fn is_huge(self) -> bool {
        self.0 > Self::BASE_4K.0
    }
}

impl fmt::Display for PageSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match *self {
            Self::HUGE_1G => "1 GiB",
            Self::HUGE_2M => "2 MiB",
            _ => "4 KiB",
        })
    }
}

impl TryFrom<u64> for PageSize {
    type Error = PageSizeError;

    fn try_from(bytes: u64) -> Result<Self, Self::Error> {
        Self::from_bytes(bytes)
    }
}

impl From<PageSize> for u64 {
    fn from(size: PageSize) -> Self {
        size.0
    }
}

/// A number of bytes that is no page size.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[error("{size_bytes} bytes is not a page size: 4096, 2097152 or 1073741824")]
pub struct PageSizeError {
    /// The number that was given.
    pub size_bytes: u64,
}

/// A number of pages of one size.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct PageCount(u64);

impl PageCount {
    /// No pages.
    pub const ZERO: Self = Self(0);

    /// A count of `pages`.
    #[must_use]
    pub const fn new(pages: u64) -> Self {
        Self(pages)
    }

    /// The fewest pages that hold `size_bytes`.
    #[must_use]
    pub const fn pages_for(size_bytes: u64, page_size: PageSize) -> Self {
        Self(size_bytes.div_ceil(page_size.0))
    }

    /// The bare number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// Whether there is no page at all.
    #[must_use]
    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// The sum, or `None` where it does not fit.
    #[must_use]
    pub fn checked_add(self, other: Self) -> Option<Self> {
        self.0.checked_add(other.0).map(Self)
    }

    /// The difference, or `None` where it would be negative.
    #[must_use]
    pub fn checked_sub(self, other: Self) -> Option<Self> {
        self.0.checked_sub(other.0).map(Self)
    }

    /// The difference, or nothing where it would be negative.
    #[must_use]
    pub const fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    /// The bytes these pages hold, or `None` where that exceeds an address space.
    #[must_use]
    pub fn bytes(self, page_size: PageSize) -> Option<u64> {
        self.0.checked_mul(page_size.0)
    }
}

impl fmt::Display for PageCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A set of cpu (or node) ids in the kernel's cpulist notation, such as `0-3,8`.
///
/// Ids stay below [`CpuSet::ID_LIMIT`] and no id is listed twice, so the work and the memory a
/// text can cause are bounded whatever its length.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CpuSet(BTreeSet<u32>);

impl CpuSet {
    /// The first id that is not accepted; the largest kernels are built for 8192 cpus.
    pub const ID_LIMIT: u32 = 8192;

    /// An empty set.
    #[must_use]
    pub const fn new() -> Self {
        Self(BTreeSet::new())
    }

    /// The set of exactly these ids; a repeated id counts once.
    ///
    /// # Errors
    /// When an id is not below [`CpuSet::ID_LIMIT`].
    pub fn from_ids(ids: impl IntoIterator<Item = u32>) -> Result<Self, CpuSetError> {
        let mut set = BTreeSet::new();
        for id in ids {
            set.insert(in_limit(id)?);
        }
        Ok(Self(set))
    }

    /// Whether `id` is in the set.
    #[must_use]
    pub fn contains(&self, id: u32) -> bool {
        self.0.contains(&id)
    }

    /// How many ids there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no id.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The lowest id.
    #[must_use]
    pub fn first(&self) -> Option<u32> {
        self.0.first().copied()
    }

    /// The ids, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.0.iter().copied()
    }

    /// The ids that are in both sets.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        Self(self.0.intersection(&other.0).copied().collect())
    }

    /// The ids of this set that are not in `other`.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Self {
        Self(self.0.difference(&other.0).copied().collect())
    }
}

impl FromStr for CpuSet {
    type Err = CpuSetError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut set = BTreeSet::new();
        // The kernel writes the empty set as an empty line.
        if text.is_empty() {
            return Ok(Self(set));
        }
        for part in text.split(',') {
            let (first, last) = match part.split_once('-') {
                Some((first, last)) => (parse_id(first)?, parse_id(last)?),
                None => (parse_id(part)?, parse_id(part)?),
            };
            if first > last {
                return Err(CpuSetError::Reversed { first, last });
            }
            for id in first..=last {
                // Refusing a repeat bounds the loop: `0-8191,0-8191,...` ends at its second part.
                if !set.insert(id) {
                    return Err(CpuSetError::Repeated { id });
                }
            }
        }
        Ok(Self(set))
    }
}

impl fmt::Display for CpuSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut ids = self.0.iter().copied().peekable();
        let mut separator = "";
        while let Some(first) = ids.next() {
            let mut last = first;
            while let Some(next) = ids.next_if(|next| *next == last + 1) {
                last = next;
            }
            if first == last {
                write!(f, "{separator}{first}")?;
            } else {
                write!(f, "{separator}{first}-{last}")?;
            }
            separator = ",";
        }
        Ok(())
    }
}

impl TryFrom<String> for CpuSet {
    type Error = CpuSetError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<CpuSet> for String {
    fn from(set: CpuSet) -> Self {
        set.to_string()
    }
}

/// A text that is no cpu list.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum CpuSetError {
    /// A part of the list is not a plain decimal number.
    #[error("{part:?} is not a cpu id")]
    NotANumber {
        /// The part, cut to a length fit for a log line.
        part: String,
    },
    /// An id is not below [`CpuSet::ID_LIMIT`].
    #[error("cpu id {id} is not below {limit}", limit = CpuSet::ID_LIMIT)]
    TooLarge {
        /// The id.
        id: u64,
    },
    /// A range runs backwards.
    #[error("cpu range {first}-{last} runs backwards")]
    Reversed {
        /// Its first id.
        first: u32,
        /// Its last id.
        last: u32,
    },
    /// An id is listed twice.
    #[error("cpu id {id} is listed twice")]
    Repeated {
        /// The id.
        id: u32,
    },
}

fn parse_id(part: &str) -> Result<u32, CpuSetError> {
    // `str::parse` would let a sign through.
    let digits = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    match part.parse::<u64>() {
        Ok(id) if digits => in_limit(u32::try_from(id).unwrap_or(u32::MAX))
            .map_err(|_| CpuSetError::TooLarge { id }),
        _ => Err(CpuSetError::NotANumber { part: part.chars().take(32).collect() }),
    }
}

fn in_limit(id: u32) -> Result<u32, CpuSetError> {
    if id < CpuSet::ID_LIMIT { Ok(id) } else { Err(CpuSetError::TooLarge { id: u64::from(id) }) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parsed(text: &str) -> Result<CpuSet, CpuSetError> {
        text.parse()
    }

    #[test]
    fn a_page_size_is_one_of_three() {
        assert_eq!(PageSize::from_bytes(2 << 20), Ok(PageSize::HUGE_2M));
        assert_eq!(PageSize::from_bytes(64 << 10), Err(PageSizeError { size_bytes: 64 << 10 }));
    }

    #[test]
    fn a_page_size_reads_in_binary_units() {
        let texts = PageSize::ALL.map(|size| size.to_string());
        assert_eq!(texts, ["1 GiB", "2 MiB", "4 KiB"]);
    }

    #[test]
    fn a_page_size_is_written_as_bytes_and_checked_when_read() {
        assert_eq!(serde_json::to_string(&PageSize::HUGE_2M).unwrap(), "2097152");
        assert!(serde_json::from_str::<PageSize>("4097").is_err());
    }

    #[test]
    fn a_byte_over_a_page_takes_another_page() {
        let pages = |bytes| PageCount::pages_for(bytes, PageSize::HUGE_2M).get();
        assert_eq!([pages(0), pages(1), pages(2 << 20), pages((2 << 20) + 1)], [0, 1, 1, 2]);
    }

    #[test]
    fn bytes_beyond_an_address_space_are_refused() {
        assert_eq!(PageCount::new(u64::MAX).bytes(PageSize::HUGE_1G), None);
    }

    #[test]
    fn a_cpu_list_reads_ranges_in_any_order() {
        assert_eq!(parsed("8,0-2").unwrap().iter().collect::<Vec<_>>(), [0, 1, 2, 8]);
        assert_eq!(parsed("").unwrap(), CpuSet::new());
    }

    #[test]
    fn a_cpu_list_prints_as_the_kernel_prints_it() {
        assert_eq!(parsed("8,0,1,2,10-11").unwrap().to_string(), "0-2,8,10-11");
    }

    #[test]
    fn a_malformed_cpu_list_is_refused() {
        for text in ["a", "1,", ",", "-", "1-", "-1", "+1", " 1", "1-2-3", "0x1", "1;2", "1\n"] {
            let error = parsed(text).unwrap_err();
            assert!(matches!(error, CpuSetError::NotANumber { .. }), "{text:?}: {error}");
        }
    }

    #[test]
    fn a_huge_cpu_id_is_refused_before_it_takes_memory() {
        assert_eq!(parsed("0-8192"), Err(CpuSetError::TooLarge { id: 8192 }));
        assert_eq!(parsed("0-4294967296"), Err(CpuSetError::TooLarge { id: 1 << 32 }));
        assert!(parsed("0-8191").is_ok());
    }

    #[test]
    fn a_list_that_repeats_itself_is_refused() {
        assert_eq!(parsed("0-3,2"), Err(CpuSetError::Repeated { id: 2 }));
        assert_eq!(parsed("3-0"), Err(CpuSetError::Reversed { first: 3, last: 0 }));
    }

    proptest! {
        #[test]
        fn a_cpu_set_survives_its_own_notation(
            ids in prop::collection::btree_set(0u32..8192, 0..64),
        ) {
            let set = CpuSet::from_ids(ids).unwrap();
            prop_assert_eq!(set.to_string().parse::<CpuSet>().unwrap(), set);
        }

        #[test]
        fn any_text_is_either_a_set_or_an_error(text in "[0-9,+ -]{0,40}") {
            if let Ok(set) = text.parse::<CpuSet>() {
                prop_assert!(set.iter().all(|id| id < CpuSet::ID_LIMIT));
            }
        }
    }
}
