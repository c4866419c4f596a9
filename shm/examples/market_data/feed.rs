//! The feed and its readers: what the example runs, and what a test runs with a real agent.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;
use std::time::Duration;

use laneway_shm::{Attach, Reason, RecvError, ReserveError, Start, TypedReceiver};

/// Instruments of the feed.
const INSTRUMENTS: u64 = 8;
const PATIENCE: Duration = Duration::from_secs(60);

laneway_shm::message! {
    /// One quote.
    pub(crate) struct Quote {
        /// Number of the quote.
        pub(crate) sequence: u64,
        /// What it is for.
        pub(crate) instrument: u64,
        /// Price in hundredths.
        pub(crate) price: u64,
    }
}

impl Quote {
    /// The quote that the feed sends as number `sequence`.
    pub(crate) fn new(sequence: u64) -> Self {
        let instrument = sequence % INSTRUMENTS;
        Self { sequence, instrument, price: 10_000 + instrument * 100 + sequence % 17 }
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
    let mut feed = Attach::with_ticket(socket, ticket)?.typed_producer()?;
    for sequence in 0..count {
        let quote = Quote::new(sequence);
        match feed.send(&quote, Duration::from_secs(1)) {
            Ok(()) => {}
            Err(ReserveError::Held { reader, lag_slots, held, .. }) => {
                eprintln!("reader {reader} holds the feed: {lag_slots} quotes behind, {held:?}");
                feed.send(&quote, PATIENCE)?;
            }
            Err(error) => return Err(error.into()),
        }
    }
    feed.close(PATIENCE)?;
    Ok(())
}

/// Follows the feed to its end, whatever the lane's policy is.
pub(crate) fn follow(socket: &Path, ticket: &str, start: Start) -> Result<Book, Box<dyn Error>> {
    let mut receiver =
        Attach::with_ticket(socket, ticket)?.start(start).typed_receiver::<Quote>()?;
    let mut book = Book::default();
    loop {
        let received = match &mut receiver {
            TypedReceiver::Consumer(quotes) => quotes.recv(PATIENCE),
            TypedReceiver::Subscriber(quotes) => quotes.recv(PATIENCE),
        };
        match received {
            Ok(quote) => {
                book.received += 1;
                book.last.insert(quote.instrument, quote.price);
            }
            Err(RecvError::Lost { slots, .. }) => book.lost += slots,
            Err(RecvError::GivenUp { reason: Reason::Behind, .. }) => book.given_up = true,
            Err(RecvError::Closed { .. }) => return Ok(book),
            Err(error) => return Err(error.into()),
        }
    }
}
