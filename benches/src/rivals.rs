//! Everybody else, each used as its documentation recommends.
//!
//! A rival that crosses the border between processes runs in two fresh children of the benchmark
//! in the hidden role `rival`: they get one errand, meet in a directory of their own, measure,
//! answer and end. What goes wrong there is a row of the report.

pub(crate) mod contest;
pub(crate) mod in_process;
pub(crate) mod pair;

#[cfg(feature = "rivals-aeron")]
pub(crate) mod aeron;
#[cfg(feature = "rivals-aeron")]
mod aeron_calls;
#[cfg(feature = "rivals-dpdk")]
mod dpdk;
#[cfg(feature = "rivals-dpdk")]
mod dpdk_ring;
mod grpc;
mod iceoryx;
mod in_place;
mod ipc;
mod meeting;
mod rings;
mod streams;

use std::io::{self, BufRead};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::child;
use crate::error::BenchError;
use crate::message::{Receives, Sends};
use crate::plan::{Cell, Who};
use crate::probe::pin;
use crate::task::{Answer, Side, Wait, Work};
use crate::worker::{next, say};
use crate::{latency, stream};
use meeting::Meeting;

/// One measurement of one rival, for one of the two children.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Errand {
    pub(crate) side: Side,
    /// None leaves the child where the kernel puts it.
    pub(crate) cpu: Option<u32>,
    /// Where both meet; removed by the parent.
    pub(crate) directory: PathBuf,
    pub(crate) cell: Cell,
    pub(crate) wait: Wait,
    pub(crate) millis: u64,
}

impl Errand {
    fn time(&self) -> Duration {
        Duration::from_millis(self.millis)
    }

    fn spins(&self) -> bool {
        self.wait == Wait::Spin
    }
}

/// The hidden role `laneway-bench rival`.
pub(crate) fn run(parent: Option<i32>) -> Result<ExitCode, BenchError> {
    child::adopt(parent)?;
    let mut lines = io::stdin().lock().lines();
    let answered = match next::<Errand>(&mut lines, "the errand") {
        Ok(Some(errand)) => {
            let meeting = Meeting::new(&errand.directory);
            serve(&errand, &meeting).inspect_err(|error| meeting.fail(error))
        }
        Ok(None) => Ok(Answer::Done),
        Err(error) => Err(error),
    };
    // By now the rival's ends are closed, and its files are gone.
    match answered {
        Ok(answer) => say(&answer).map(|()| ExitCode::SUCCESS),
        Err(error) => say(&Answer::Failed(error.to_string())).map(|()| ExitCode::FAILURE),
    }
}

fn serve(errand: &Errand, meeting: &Meeting) -> Result<Answer, BenchError> {
    let _pinned = errand.cpu.map(pin).transpose()?;
    match errand.cell.who {
        Who::Iceoryx2 => iceoryx::serve(errand, meeting),
        Who::ShmemIpc => rings::serve(errand, meeting),
        #[cfg(feature = "rivals-dpdk")]
        Who::DpdkRing | Who::DpdkInPlace => dpdk::serve(errand, meeting),
        #[cfg(feature = "rivals-aeron")]
        Who::Aeron => aeron::serve(errand, meeting),
        Who::IpcChannel => ipc::serve(errand, meeting),
        Who::Pipe => streams::pipe(errand, meeting),
        Who::UnixStream => streams::unix_stream(errand, meeting),
        Who::UnixSeqpacket => streams::unix_seqpacket(errand, meeting),
        Who::Tcp => streams::tcp(errand, meeting),
        Who::TonicUnary => grpc::unary(errand, meeting),
        Who::TonicStream => grpc::stream(errand, meeting),
        Who::Laneway
        | Who::Sent
        | Who::Packed
        | Who::Trusted
        | Who::Rtrb
        | Who::ArrayQueue
        | Who::CrossbeamChannel
        | Who::Ringbuf
        | Who::Ideal
        | Who::Memcpy => Err(BenchError::Rival {
            what: "no errand",
            why: format!("{} needs no two processes of its own", errand.cell.who.as_str()),
        }),
        #[cfg(not(feature = "rivals-dpdk"))]
        Who::DpdkRing | Who::DpdkInPlace => Err(missing(errand)),
        #[cfg(not(feature = "rivals-aeron"))]
        Who::Aeron => Err(missing(errand)),
    }
}

/// A rival that this build does not have; whoever sends the errand knows that, too.
#[cfg(not(all(feature = "rivals-dpdk", feature = "rivals-aeron")))]
fn missing(errand: &Errand) -> BenchError {
    BenchError::Rival { what: "this build is without it", why: errand.cell.who.as_str().to_owned() }
}

/// Plays one side; `part` does not return before the other has finished, too: who leaves first
/// would take the last message with it.
fn play<O, I>(
    errand: &Errand,
    shape: &mut (impl Sends<O> + Receives<I>),
    outlet: &mut O,
    inlet: &mut I,
    part: impl FnOnce() -> Result<(), BenchError>,
) -> Result<Answer, BenchError> {
    let (time, bytes) = (errand.time(), errand.cell.bytes);
    let answer = match (errand.side, errand.cell.work) {
        (Side::Initiator, Work::Latency) => {
            Answer::Latency(latency::initiate(shape, outlet, inlet, time)?)
        }
        (Side::Responder, Work::Latency) => {
            latency::respond(shape, inlet, outlet)?;
            Answer::Done
        }
        (Side::Initiator, Work::Batch) => {
            stream::produce_batches(shape, outlet, time, bytes)?;
            Answer::Done
        }
        (Side::Responder, Work::Batch) => {
            Answer::Throughput(stream::consume_batches(shape, inlet, time, bytes)?)
        }
        (Side::Initiator, Work::Stream | Work::Copy) => {
            stream::produce(shape, outlet, time, bytes)?;
            Answer::Done
        }
        (Side::Responder, Work::Stream | Work::Copy) => {
            Answer::Throughput(stream::consume(shape, inlet, time, bytes)?)
        }
    };
    part()?;
    Ok(answer)
}

/// Plays one side with messages whose size the compiler knows up to 1 KiB, as lanes do.
macro_rules! play_shaped {
    ($errand:expr, $outlet:expr, $inlet:expr, $part:expr) => {
        $crate::queue::by_value!($errand.cell.bytes, [8, 56, 64, 256, 1024],
            N => $crate::rivals::play(
                $errand, &mut $crate::message::Small::<N>, $outlet, $inlet, $part),
            else $crate::rivals::play(
                $errand, &mut $crate::message::Large::new($errand.cell.bytes),
                $outlet, $inlet, $part))
    };
}
use play_shaped;
