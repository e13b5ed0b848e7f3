//! What is fuzzed, on the corpus of `tests/fuzz` and on random mutations of it: nothing panics, all that `targets` asks for holds, and
//! neither time nor memory goes beyond what the bytes can justify.
//!
//! `MILLPOND_LONG` is for far more mutations, `MILLPOND_SEED` for the same ones again. What fails is kept in a file, whose place is told.

#[path = "fuzz/seeds.rs"]
mod seeds;
#[path = "fuzz/targets.rs"]
mod targets;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fuzz");
/// Longest input: with more, mutations only get slower.
const LONGEST: usize = 16 << 10;

struct Target {
    name: &'static str,
    run: fn(&[u8]),
    /// Mutations that are tried, and with `MILLPOND_LONG`.
    mutations: (usize, usize),
    /// What one input may take, in a build without optimisation on a busy machine.
    time: Duration,
    /// What one input may allocate at a time, but for `bytes_per_byte` of each of its bytes.
    bytes: usize,
    bytes_per_byte: usize,
}

#[test]
fn pipeline_files() {
    check(&Target {
        name: "yaml",
        run: targets::yaml,
        mutations: (250, 400_000),
        time: Duration::from_secs(10),
        // A few aliases are worth the most values that a file may have.
        bytes: 512 << 20,
        bytes_per_byte: 1 << 10,
    });
}

#[test]
fn frames() {
    check(&Target {
        name: "frames",
        run: targets::frames,
        mutations: (1450, 4_000_000),
        time: Duration::from_secs(1),
        bytes: 64 << 10,
        bytes_per_byte: 16,
    });
}

#[test]
fn what_workers_send() {
    check(&Target {
        name: "worker",
        run: targets::worker,
        mutations: (300, 1_000_000),
        time: Duration::from_secs(2),
        bytes: 4 << 20,
        bytes_per_byte: 64,
    });
}

#[test]
fn ledgers() {
    check(&Target {
        name: "ledger",
        run: targets::ledger,
        mutations: (400, 1_000_000),
        time: Duration::from_secs(2),
        bytes: 4 << 20,
        bytes_per_byte: 64,
    });
}

/// Runs a target on its corpus and on mutations of it.
fn check(target: &Target) {
    if std::env::var_os("MILLPOND_SEEDS").is_some() {
        seeds::write(&Path::new(FOLDER).join("corpus"));
    }
    let corpus = corpus(target.name);
    assert!(corpus.len() >= 5, "the corpus of {} is not there", target.name);
    // What is made once and kept, such as the schema, is no input's.
    (target.run)(&corpus[0]);
    corpus.iter().for_each(|input| try_input(target, input, "the corpus"));
    let is_long = std::env::var_os("MILLPOND_LONG").is_some();
    let seed = std::env::var("MILLPOND_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or_else(|| SystemTime::UNIX_EPOCH.elapsed().map_or(1, |time| time.as_micros() as u64));
    println!("{}: MILLPOND_SEED={seed}", target.name);
    let mut mutator = Mutator { random: Random(seed | 1), tokens: tokens(target.name), corpus: &corpus };
    for _ in 0..if is_long { target.mutations.1 } else { target.mutations.0 } {
        let input = mutator.mutation();
        try_input(target, &input, &format!("MILLPOND_SEED={seed}"));
    }
}

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let files = fs::read_dir(Path::new(FOLDER).join("corpus").join(target)).expect("a corpus");
    let mut files: Vec<PathBuf> = files.map(|file| file.expect("a file").path()).collect();
    files.sort();
    files.iter().map(|file| fs::read(file).expect("a file")).collect()
}

/// Runs a target on one input, within its bounds.
fn try_input(target: &Target, input: &[u8], origin: &str) {
    // Also if the stack overflows, which ends the process.
    let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("fuzz-{}", target.name));
    fs::write(&kept, input).expect("a file");
    let (start, before) = (Instant::now(), Memory::begin());
    let result = catch_unwind(AssertUnwindSafe(|| (target.run)(input)));
    let (took, peak) = (start.elapsed(), Memory::peak(before));
    let bytes = target.bytes + target.bytes_per_byte * input.len();
    let problem = match result {
        Err(_) => "it panicked".to_owned(),
        Ok(()) if took > target.time => format!("it took {took:?}"),
        Ok(()) if peak > bytes => format!("it took {peak} bytes of memory, for {} bytes of input", input.len()),
        Ok(()) => return,
    };
    panic!("{}: {problem}; the input is in {} (from {origin})", target.name, kept.display());
}

/// Makes new inputs from those of a corpus.
struct Mutator<'a> {
    random: Random,
    tokens: Vec<Vec<u8>>,
    corpus: &'a [Vec<u8>],
}

impl Mutator<'_> {
    fn mutation(&mut self) -> Vec<u8> {
        let corpus = self.corpus;
        let mut bytes = self.random.of(corpus).clone();
        for _ in 0..=self.random.below(4) {
            self.change(&mut bytes);
        }
        bytes.truncate(LONGEST);
        bytes
    }

    fn change(&mut self, bytes: &mut Vec<u8>) {
        let at = self.random.below(bytes.len() + 1);
        let end = (at + self.random.below(16)).min(bytes.len());
        let far = at + self.random.below(bytes.len() - at + 1);
        match self.random.below(10) {
            0 => drop(bytes.drain(at..end)),
            1 => bytes.truncate(at),
            2 => {
                let again = bytes[at..far].to_vec();
                bytes.splice(at..at, again);
            }
            3 => {
                let other = self.random.of(self.corpus);
                let from = self.random.below(other.len() + 1);
                let to = from + self.random.below(other.len() - from + 1);
                bytes.splice(at..end, other[from..to].iter().copied());
            }
            4 => {
                let other = self.random.of(self.corpus);
                bytes.extend_from_slice(other);
            }
            5 | 6 if !self.tokens.is_empty() => {
                let token = self.random.of(&self.tokens).clone();
                bytes.splice(at..end, token);
            }
            5..=7 => self.number(bytes, at),
            _ => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = if self.random.below(2) == 0 {
                        *byte ^ 1 << self.random.below(8)
                    } else {
                        self.random.next() as u8
                    };
                }
            }
        }
    }

    /// Puts a number where one may be.
    fn number(&mut self, bytes: &mut [u8], at: usize) {
        const NUMBERS: [u64; 12] = [0, 1, 2, 3, 7, 64, 4000, 1 << 20, 1 << 31, 1 << 40, i64::MAX as u64, u64::MAX];
        let number = *self.random.of(&NUMBERS);
        let at = at / 4 * 4;
        let width = [1, 2, 4, 8][self.random.below(4)];
        if let Some(place) = bytes.get_mut(at..at + width) {
            place.copy_from_slice(&number.to_le_bytes()[..width]);
        }
    }
}

/// The tokens of a target's dictionary, if it has one: lines of `"…"` with `\xNN`, `\\` and `\"`.
fn tokens(target: &str) -> Vec<Vec<u8>> {
    let text = fs::read_to_string(Path::new(FOLDER).join(format!("{target}.dict"))).unwrap_or_default();
    let quoted = text.lines().filter_map(|line| line.strip_prefix('"')?.strip_suffix('"'));
    quoted.map(token).collect()
}

fn token(quoted: &str) -> Vec<u8> {
    let mut token = Vec::new();
    let mut rest = quoted.as_bytes();
    while let Some((&next, behind)) = rest.split_first() {
        let first;
        (first, rest) = match behind {
            [b'x', high, low, behind @ ..] if next == b'\\' => {
                let digits = [*high, *low];
                let digits = std::str::from_utf8(&digits).expect("hexadecimal digits");
                (u8::from_str_radix(digits, 16).expect("hexadecimal digits"), behind)
            }
            [escaped, behind @ ..] if next == b'\\' => (*escaped, behind),
            _ => (next, behind),
        };
        token.push(first);
    }
    token
}

/// Xorshift.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    fn of<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.below(choices.len())]
    }
}

/// Counts what each thread has allocated.
struct Memory;

thread_local! {
    static HELD: Cell<isize> = const { Cell::new(0) };
    static MOST: Cell<isize> = const { Cell::new(0) };
}

impl Memory {
    fn begin() -> isize {
        MOST.set(HELD.get());
        HELD.get()
    }

    /// The most that was held since, beyond what was held `before`.
    fn peak(before: isize) -> usize {
        usize::try_from(MOST.get() - before).unwrap_or(0)
    }

    fn add(bytes: isize) {
        // A thread that ends has nothing to count with any more.
        let _ = HELD.try_with(|held| {
            held.set(held.get() + bytes);
            let _ = MOST.try_with(|most| most.set(most.get().max(held.get())));
        });
    }
}

#[global_allocator]
static ALLOCATOR: Memory = Memory;

// SAFETY: the system's allocator does it all.
unsafe impl GlobalAlloc for Memory {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        Self::add(layout.size().cast_signed());
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        Self::add(layout.size().cast_signed());
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, address: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        Self::add(size.cast_signed() - layout.size().cast_signed());
        unsafe { System.realloc(address, layout, size) }
    }

    unsafe fn dealloc(&self, address: *mut u8, layout: Layout) {
        Self::add(-layout.size().cast_signed());
        unsafe { System.dealloc(address, layout) }
    }
}
