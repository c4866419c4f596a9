//! Requests and responses: a pair of lanes, one in each direction.
//!
//! ```sh
//! laneway lane create requests --slot-size 120 --slots 64 --wait park --pinning none \
//!     --producer-uid $(id -u) --consumer-uid $(id -u)
//! laneway lane create responses --slot-size 120 --slots 64 --wait park --pinning none \
//!     --producer-uid $(id -u) --consumer-uid $(id -u)
//! request_response SOCKET serve requests responses &
//! request_response SOCKET call requests responses one two three
//! ```
//!
//! SOCKET is the agent's attach socket, such as `/run/laneway/attach/attach.sock`. The server
//! answers every request with its text in capitals, and ends when the caller ends the stream.

use std::error::Error;
use std::time::Duration;

use laneway_shm::{Attach, Caller, Duplex, RecvError, Responder};

const PATIENCE: Duration = Duration::from_secs(30);
/// Calls that may wait for their response at the same time.
const IN_FLIGHT: usize = 16;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [socket, "serve", requests, responses] => serve(socket, requests, responses),
        [socket, "call", requests, responses, texts @ ..] => {
            call(socket, requests, responses, texts)
        }
        _ => Err("usage: request_response SOCKET serve|call REQUESTS RESPONSES [TEXT...]".into()),
    }
}

fn duplex(socket: &str, out: &str, back: &str) -> Result<Duplex, Box<dyn Error>> {
    Ok(Duplex::attach(&Attach::by_name(socket, out), &Attach::by_name(socket, back))?)
}

fn serve(socket: &str, requests: &str, responses: &str) -> Result<(), Box<dyn Error>> {
    let mut responder = Responder::new(duplex(socket, responses, requests)?);
    loop {
        // The request is copied out before it is looked at: its sender may be writing it still.
        let served = responder.serve(PATIENCE, |request, reply| {
            let text = String::from_utf8_lossy(&request.to_vec()).to_uppercase();
            reply.send(text.as_bytes())
        });
        match served {
            Ok(sent) => sent?,
            Err(RecvError::Closed { .. }) => break,
            Err(other) => return Err(other.into()),
        }
    }
    println!("{} requests answered", responder.counts().answered);
    Ok(())
}

fn call(
    socket: &str,
    requests: &str,
    responses: &str,
    texts: &[&str],
) -> Result<(), Box<dyn Error>> {
    let mut caller = Caller::new(duplex(socket, requests, responses)?, IN_FLIGHT);
    for some in texts.chunks(IN_FLIGHT) {
        // All of them are on their way before the first is waited for.
        let start = |text: &&str| caller.start(text.as_bytes(), PATIENCE);
        let calls = some.iter().map(start).collect::<Result<Vec<_>, _>>()?;
        for call in calls {
            println!("{}", String::from_utf8_lossy(&caller.wait(call)?));
        }
    }
    Ok(caller.into_duplex().producer.close(PATIENCE)?)
}
