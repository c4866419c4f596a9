//! What a program executed, instruction by instruction, as callgrind wrote it down.

use std::collections::BTreeMap;
use std::fs;

use iced_x86::{Decoder, DecoderOptions, Mnemonic, OpKind};
use object::{Object as _, ObjectSegment as _};

/// Longest instruction, in bytes.
const LONGEST: usize = 15;

/// Object file and address in it of each instruction, and how often it was executed.
pub(super) struct Executed(BTreeMap<(String, u64), u64>);

/// An instruction of which there is to be none.
#[derive(Debug)]
#[expect(dead_code, reason = "a failure prints it")]
pub(super) struct Bad {
    object: String,
    address: u64,
    mnemonic: Mnemonic,
    times: u64,
    /// Whether it enters the kernel.
    pub(super) is_call: bool,
}

impl Executed {
    /// Reads a file of callgrind's that has positions and names in full.
    pub(super) fn parse(text: &str) -> Self {
        let (mut counts, mut object, mut of_callee) = (BTreeMap::new(), "", false);
        for line in text.lines() {
            if let Some(name) = line.strip_prefix("ob=") {
                object = name;
            } else if line.starts_with("calls=") {
                // The next line says what the callee executed, which stands there by itself, too.
                of_callee = true;
            } else if let Some(rest) = line.strip_prefix("0x")
                && !std::mem::take(&mut of_callee)
            {
                let words: Vec<&str> = rest.split_whitespace().collect();
                let address = u64::from_str_radix(words[0], 16).expect("an address");
                let times: u64 = words[words.len() - 1].parse().expect("a count");
                *counts.entry((object.to_owned(), address)).or_default() += times;
            }
        }
        assert!(!counts.is_empty(), "callgrind wrote nothing down");
        Self(counts)
    }

    /// What was executed more often than in `other`.
    pub(super) fn less(&self, other: &Self) -> Self {
        let more = self.0.iter().map(|(place, times)| {
            let before = other.0.get(place).copied().unwrap_or(0);
            (place.clone(), times.saturating_sub(before))
        });
        Self(more.collect())
    }

    pub(super) fn total(&self) -> u64 {
        self.0.values().sum()
    }

    /// What was executed more than `limit` times.
    pub(super) fn more_than(mut self, limit: u64) -> Self {
        self.0.retain(|_, times| *times > limit);
        self
    }

    /// Instructions of the program's text.
    pub(super) fn places(&self) -> usize {
        self.0.len()
    }

    /// Which of these instructions are forbidden.
    pub(super) fn bad(&self) -> Vec<Bad> {
        let mut files: BTreeMap<&str, Vec<u8>> = BTreeMap::new();
        let mut bad = Vec::new();
        for ((object, address), times) in &self.0 {
            let file = files.entry(object).or_insert_with(|| {
                fs::read(object).unwrap_or_else(|error| panic!("code of {object}: {error}"))
            });
            if let Some(mnemonic) = forbidden(&code_at(file, *address)) {
                let (object, is_call) = (object.clone(), is_call(mnemonic));
                bad.push(Bad { object, address: *address, mnemonic, times: *times, is_call });
            }
        }
        bad
    }
}

/// The bytes at an address of an object file.
fn code_at(file: &[u8], address: u64) -> Vec<u8> {
    let file = object::File::parse(file).expect("an object file");
    let (bytes, start) = file
        .segments()
        .find(|segment| (segment.address()..segment.address() + segment.size()).contains(&address))
        .map(|segment| (segment.data().expect("bytes"), segment.address()))
        .expect("what was executed lies in a segment");
    let from = usize::try_from(address - start).expect("an offset");
    bytes[from..].iter().take(LONGEST).copied().collect()
}

/// The instruction at the start of `code`, if the steady path must not have it: an atomic
/// read-modify-write, a fence, or an entry into the kernel.
pub(super) fn forbidden(code: &[u8]) -> Option<Mnemonic> {
    let instruction = Decoder::new(64, code, DecoderOptions::NONE).decode();
    assert!(!instruction.is_invalid(), "no instruction: {code:02x?}");
    let mnemonic = instruction.mnemonic();
    // Locked without a prefix where it goes to memory.
    let swaps = mnemonic == Mnemonic::Xchg
        && (0..instruction.op_count()).any(|op| instruction.op_kind(op) == OpKind::Memory);
    let fences = matches!(mnemonic, Mnemonic::Mfence | Mnemonic::Lfence | Mnemonic::Sfence);
    (instruction.has_lock_prefix() || swaps || fences || is_call(mnemonic)).then_some(mnemonic)
}

fn is_call(mnemonic: Mnemonic) -> bool {
    matches!(mnemonic, Mnemonic::Syscall | Mnemonic::Sysenter | Mnemonic::Int)
}
