//! The feed and its readers: what the example runs, and what a test runs with a real agent.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;
use std::time::Duration;

use laneway_shm::{Attach, Reason, Receiver, RecvError, ReserveError, Start};

/// Instruments of the feed.
const INSTRUMENTS: u64 = 8;
const PATIENCE: Duration = Duration::from_secs(60);

/// One quote: 24 bytes, every bit pattern of which is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Quote {
    /// Number of the quote.
    pub(crate) sequence: u64,
    /// What it is for.
    pub(crate) instrument: u64,
    /// Price in hundredths.
    pub(crate) price: u64,
}

impl Quote {
    /// The quote that the feed sends as number `sequence`.
    pub(crate) fn new(sequence: u64) -> Self {
        let instrument = sequence % INSTRUMENTS;
        Self { sequence, instrument, price: 10_000 + instrument * 100 + sequence % 17 }
    }

    fn to_bytes(self) -> [u8; 24] {
        let mut bytes = [0; 24];
        let words = [self.sequence, self.instrument, self.price];
        for (target, word) in bytes.chunks_exact_mut(8).zip(words) {
            target.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (words, rest) = bytes.as_chunks::<8>();
        match (words, rest) {
            ([sequence, instrument, price], []) => Some(Self {
                sequence: u64::from_le_bytes(*sequence),
                instrument: u64::from_le_bytes(*instrument),
                price: u64::from_le_bytes(*price),
            }),
            _ => None,
        }
    }
}

/// What a reader has at the end of the stream.
#[derive(Debug, Default)]
pub(crate) struct Book {
    /// The last price of each instrument.
    pub(crate) last: BTreeMap<u64, u64>,
    /// Quotes received.
    pub(crate) received: u64,
    /// Quotes lost: each takes one slot.
    pub(crate) lost: u64,
    /// Whether the feed gave this reader up.
    pub(crate) given_up: bool,
}

/// Sends `count` quotes, whoever reads them, and ends the stream.
pub(crate) fn publish(socket: &Path, ticket: &str, count: u64) -> Result<(), Box<dyn Error>> {
    let mut feed = Attach::with_ticket(socket, ticket)?.producer()?;
    for sequence in 0..count {
        let quote = Quote::new(sequence).to_bytes();
        match feed.send_array(quote, Duration::from_secs(1)) {
            Ok(()) => {}
            Err(ReserveError::Held { reader, lag_slots, held, .. }) => {
                eprintln!("reader {reader} holds the feed: {lag_slots} quotes behind, {held:?}");
                feed.send_array(quote, PATIENCE)?;
            }
            Err(error) => return Err(error.into()),
        }
    }
    feed.close(PATIENCE)?;
    Ok(())
}

/// Follows the feed to its end, whatever the lane's policy is.
pub(crate) fn follow(socket: &Path, ticket: &str, start: Start) -> Result<Book, Box<dyn Error>> {
    let mut receiver = Attach::with_ticket(socket, ticket)?.start(start).receiver()?;
    let mut book = Book::default();
    loop {
        let mut buffer = [0; 24];
        let received = match &mut receiver {
            Receiver::Consumer(consumer) => {
                consumer.recv(PATIENCE).map(|slot| buffer.len() == slot.copy_to(&mut buffer))
            }
            Receiver::Subscriber(subscriber) => subscriber.recv(PATIENCE).map(|message| {
                let fits = message.bytes.len() == buffer.len();
                if fits {
                    buffer.copy_from_slice(message.bytes);
                }
                fits
            }),
        };
        match received {
            Ok(true) => {
                let quote = Quote::from_bytes(&buffer).ok_or("no quote")?;
                book.received += 1;
                book.last.insert(quote.instrument, quote.price);
            }
            Ok(false) => return Err("a message of another length than a quote's".into()),
            Err(RecvError::Lost { slots, .. }) => book.lost += slots,
            Err(RecvError::GivenUp { reason: Reason::Behind, .. }) => book.given_up = true,
            Err(RecvError::Closed { .. }) => return Ok(book),
            Err(error) => return Err(error.into()),
        }
    }
}
