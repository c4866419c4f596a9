//! Market data: one feed writes each quote once, any number of readers follow it.
//!
//! With an agent running (`laneway agent`), in three shells:
//!
//! ```sh
//! laneway lane create quotes --shape broadcast --policy evicting --slot-size 24 --slots 1024
//! export LANEWAY_ATTACH_SOCKET=…    # as `lane create` printed it
//! export LANEWAY_TICKET=$(laneway lane ticket quotes consumer)   # one for each reader
//! cargo run -p laneway-shm --example market_data -- follow
//! LANEWAY_TICKET=$(laneway lane ticket quotes producer) \
//!     cargo run -p laneway-shm --example market_data -- publish 1000000
//! ```
//!
//! A `gated` lane makes the feed wait for its slowest reader and names it; an `evicting` one gives
//! a reader up that is too far behind; an `overwrite` one waits for nobody. The reader is the same.

mod feed;

use std::error::Error;

use laneway_shm::Start;

use feed::{follow, publish};

fn main() -> Result<(), Box<dyn Error>> {
    let socket = std::env::var("LANEWAY_ATTACH_SOCKET")?;
    let ticket = std::env::var("LANEWAY_TICKET")?;
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["publish", count] => publish(socket.as_ref(), &ticket, count.parse()?),
        ["follow"] => {
            let book = follow(socket.as_ref(), &ticket, Start::Newest)?;
            println!("received {}, lost {}, last prices {:?}", book.received, book.lost, book.last);
            Ok(())
        }
        _ => Err("usage: market_data publish COUNT | follow".into()),
    }
}
