//! Fuzzing with nothing but cargo: saved inputs are run again every time, and in a full run
//! (`LANEWAY_FULL=1`) mutated for some seconds.
//!
//! With `RUSTC_WORKSPACE_WRAPPER=$PWD/.ci/covered` the compiler counts which branches an input
//! takes; then what reaches a new one is mutated in turn, and with `LANEWAY_CORPUS=grow` it is
//! saved. Inputs are lines of hexadecimal digits in `tests/corpus/<target>.txt`, beside those that
//! a target makes by itself. One that fails is added there, and told.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use mutatis::Session;

/// Longest input, in bytes.
const INPUT_MAX: usize = 2048;
/// Most of a corpus that is saved, in bytes.
const CORPUS_MAX: usize = 16 << 10;
/// Mutations of an input at once, at most.
const MUTATIONS_MAX: u64 = 6;
/// Time for each target in a full run, unless `LANEWAY_FUZZ_SECONDS` says otherwise.
const SECONDS: u64 = 7;

/// Where the compiler counts: filled before `main`.
static COUNTERS: Mutex<BTreeSet<(usize, usize)>> = Mutex::new(BTreeSet::new());

/// Called by every instrumented module, with the counters of the whole program.
#[unsafe(no_mangle)]
pub extern "C" fn __sanitizer_cov_8bit_counters_init(start: *mut u8, end: *mut u8) {
    if let Ok(mut counters) = COUNTERS.lock() {
        counters.insert((start.addr(), end.addr()));
    }
}

/// The branches that were taken since the last call, by number.
fn branches_taken() -> Vec<usize> {
    let mut taken = Vec::new();
    let counters = COUNTERS.lock().expect("nobody fails while it is held");
    for &(start, end) in counters.iter() {
        let first = start.next_multiple_of(8);
        for at in (first..end.saturating_sub(7)).step_by(8) {
            let word = std::ptr::with_exposed_provenance_mut::<u64>(at);
            // SAFETY:
            // - the compiler's runtime keeps these bytes for the program's whole life, and said
            //   so at the start: `at` is inside, and aligned by the line above;
            // - instrumented code counts in them without order: a count may get lost here, which
            //   costs a branch that is found later, and there is no other use of them in Rust.
            let counts = unsafe { AtomicU64::from_ptr(word) }.swap(0, Ordering::Relaxed);
            if counts != 0 {
                let bytes = counts.to_le_bytes().into_iter().enumerate();
                taken.extend(bytes.filter(|(_, count)| *count > 0).map(|(byte, _)| at + byte));
            }
        }
    }
    taken
}

/// What is known of a target.
struct Campaign<'r> {
    file: PathBuf,
    inputs: Vec<Vec<u8>>,
    /// Branches that some input has taken.
    known: BTreeSet<usize>,
    session: Session,
    dice: u64,
    run: &'r mut dyn FnMut(&[u8]),
}

/// Runs `run` on the target's saved inputs and on `seeds`; in a full run on mutations of them.
///
/// # Panics
/// When `run` does.
pub fn fuzz(target: &str, seeds: Vec<Vec<u8>>, run: &mut dyn FnMut(&[u8])) {
    let _turn = crate::turn();
    let file = corpus(target);
    let mut inputs = seeds;
    inputs.extend(saved(target));
    let (session, known) = (Session::new().seed(1), BTreeSet::new());
    let mut campaign = Campaign { file, inputs, known, session, dice: 1, run };
    branches_taken();
    for index in 0..campaign.inputs.len() {
        let input = campaign.inputs[index].clone();
        campaign.try_input(&input);
    }
    let saved = campaign.inputs.len();
    let runs = if is_full() { campaign.explore() } else { 0 };
    let (found, branches) = (campaign.inputs.len() - saved, campaign.known.len());
    println!("{target}: {saved} saved inputs, {runs} mutations, {found} kept, {branches} branches");
    if std::env::var_os("LANEWAY_CORPUS").is_some_and(|value| value == "grow") {
        campaign.save();
    }
}

/// The target's saved inputs.
#[must_use]
pub fn saved(target: &str) -> Vec<Vec<u8>> {
    fs::read_to_string(corpus(target)).unwrap_or_default().lines().map(from_hex).collect()
}

fn corpus(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(format!("{target}.txt"))
}

fn is_full() -> bool {
    std::env::var_os("LANEWAY_FULL").is_some_and(|value| value == "1")
}

impl Campaign<'_> {
    /// Runs an input; true if it took a branch that none before has taken.
    fn try_input(&mut self, input: &[u8]) -> bool {
        let outcome = catch_unwind(AssertUnwindSafe(|| (self.run)(input)));
        if let Err(panic) = outcome {
            eprintln!("this input fails, and is the last line of {}:", self.file.display());
            eprintln!("{}", to_hex(input));
            let saved = fs::read_to_string(&self.file).unwrap_or_default();
            if !saved.lines().any(|line| line == to_hex(input)) {
                let _ = fs::write(&self.file, saved + &to_hex(input) + "\n");
            }
            resume_unwind(panic);
        }
        let before = self.known.len();
        self.known.extend(branches_taken());
        self.known.len() > before
    }

    /// Mutates until the time is over; returns how often.
    fn explore(&mut self) -> u64 {
        let seconds = std::env::var("LANEWAY_FUZZ_SECONDS").ok().and_then(|text| text.parse().ok());
        let deadline = Instant::now() + Duration::from_secs(seconds.unwrap_or(SECONDS));
        let mut runs = 0;
        while Instant::now() < deadline {
            let input = self.mutated();
            if self.try_input(&input) {
                self.inputs.push(input);
            }
            runs += 1;
        }
        runs
    }

    fn mutated(&mut self) -> Vec<u8> {
        let mut input = self.any_input();
        if self.below(4) == 0 {
            // The start of one and the end of another.
            let other = self.any_input();
            let cut = self.below(input.len() as u64 + 1);
            input.truncate(cut);
            let from = self.below(other.len() as u64 + 1);
            input.extend(&other[from..]);
        }
        for _ in 0..=self.below(MUTATIONS_MAX) {
            // An input that cannot be mutated stays as it is.
            let _ = self.session.mutate(&mut input);
        }
        input.truncate(INPUT_MAX);
        input
    }

    fn any_input(&mut self) -> Vec<u8> {
        match self.inputs.len() as u64 {
            0 => Vec::new(),
            inputs => {
                let index = self.below(inputs);
                self.inputs[index].clone()
            }
        }
    }

    /// A number below `limit` (splitmix64).
    fn below(&mut self, limit: u64) -> usize {
        self.dice = self.dice.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = (self.dice ^ (self.dice >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((word ^ (word >> 31)) % limit).expect("a small number")
    }

    /// Writes the fewest inputs, about, that take every branch, short ones first.
    fn save(&mut self) {
        let mut inputs = std::mem::take(&mut self.inputs);
        inputs.sort_by_key(Vec::len);
        self.known.clear();
        let mut room = CORPUS_MAX;
        inputs.retain(|input| {
            room = room.saturating_sub(input.len());
            room > 0
        });
        let kept: Vec<_> = inputs.into_iter().filter(|input| self.try_input(input)).collect();
        let lines: String = kept.iter().map(|input| to_hex(input) + "\n").collect();
        fs::write(&self.file, lines).expect("the corpus is writable");
        println!("{} inputs in {}", kept.len(), self.file.display());
    }
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string grows");
        text
    })
}

fn from_hex(line: &str) -> Vec<u8> {
    let digit = |digit: u8| char::from(digit).to_digit(16).expect("hexadecimal digits");
    let byte = |pair: &[u8]| u8::try_from(digit(pair[0]) * 16 + digit(pair[1])).expect("a byte");
    line.as_bytes().as_chunks::<2>().0.iter().map(|pair| byte(pair)).collect()
}

/// An input that is read from its start; past its end there are zeros.
#[derive(Debug)]
pub struct Input<'a>(pub &'a [u8]);

impl Input<'_> {
    /// Whether all of it was read.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next byte.
    pub fn byte(&mut self) -> u8 {
        let Some((&first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        first
    }

    /// The next eight bytes, little-endian.
    pub fn word(&mut self) -> u64 {
        u64::from_le_bytes(std::array::from_fn(|_| self.byte()))
    }

    /// A number: a small one of one byte, or any of eight.
    pub fn number(&mut self) -> u64 {
        match self.byte() {
            small @ 0..=0xef => u64::from(small),
            0xf0..=0xf7 => self.word(),
            _ => u64::MAX - u64::from(self.byte()),
        }
    }

    /// So many bytes as the next one says.
    pub fn bytes(&mut self) -> Vec<u8> {
        let len = usize::from(self.byte()).min(self.0.len());
        let (taken, rest) = self.0.split_at(len);
        self.0 = rest;
        taken.to_vec()
    }
}
