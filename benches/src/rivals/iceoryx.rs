//! iceoryx2: publish and subscribe, loaned samples, no overflow.
//!
//! Practice: one publisher and one subscriber for each way; small messages are typed, large ones
//! are slices that are written and read where they lie. A spinning end polls and retries by a
//! handler that spins; a sleeping end waits for an event that the publisher notifies after each
//! sample. Everything lies below the meeting's directory.

use std::fmt::Debug;
use std::time::Instant;

use iceoryx2::port::BackpressureAction;
use iceoryx2::port::listener::Listener;
use iceoryx2::port::notifier::Notifier;
use iceoryx2::port::publisher::Publisher;
use iceoryx2::port::subscriber::Subscriber;
use iceoryx2::port::update_connections::UpdateConnections;
use iceoryx2::prelude::{
    Config, IceoryxSend, LogLevel, Node, NodeBuilder, Path, SemanticString, ServiceName,
    SignalHandlingMode, ipc, set_log_level,
};
use iceoryx2::sample::Sample;

use super::in_place::filled;
use super::meeting::Meeting;
use super::{Errand, play};
use crate::error::BenchError;
use crate::message::{Idle, Large, PATIENCE, Seen, Small, judge};
use crate::ports::{Crowd, Inlet, LargeInlet, LargeOutlet, Outlet};
use crate::queue::by_value;
use crate::task::{Answer, Side};

/// The initiator's note that both services are there.
const CREATED: &str = "created";

/// The publisher's and the subscribers' service, and all ports. Only the way there has several
/// subscribers.
macro_rules! ports {
    ($errand:expr, $node:expr, $payload:ty $(, $tune:ident($value:expr))?) => {{
        let many = $errand.cell.readers as usize;
        let (there, back) = match $errand.side {
            Side::Initiator => (("ping", many), ("pong", 1)),
            Side::Responder => (("pong", 1), ("ping", many)),
        };
        let service = |(name, subscribers)| -> Result<_, BenchError> {
            $node
                .service_builder(&service_name(name)?)
                .publish_subscribe::<$payload>()
                .enable_safe_overflow(false)
                .history_size(0)
                .max_publishers(1)
                .max_subscribers(subscribers)
                .max_nodes(2)
                .subscriber_max_buffer_size($errand.cell.depth as usize)
                .open_or_create()
                .map_err(BenchError::rival("iceoryx2 service"))
        };
        let service_there = service(there)?;
        let publisher = service_there.publisher_builder();
        $(let publisher = publisher.$tune($value);)?
        let publisher =
            if $errand.spins() { publisher.set_backpressure_handler(retry) } else { publisher };
        let publisher = publisher.create().map_err(BenchError::rival("iceoryx2 publisher"))?;
        let service_back = service(back)?;
        let subscribers = (0..back.1).map(|_| {
            let subscriber = service_back.subscriber_builder().create();
            subscriber.map_err(BenchError::rival("iceoryx2 subscriber"))
        });
        (publisher, subscribers.collect::<Result<Vec<_>, _>>()?)
    }};
}

/// Two services, one for each way.
pub(crate) fn serve(errand: &Errand, meeting: &Meeting) -> Result<Answer, BenchError> {
    set_log_level(LogLevel::Error);
    let node = node(meeting)?;
    // Two sides that create the same service at once may find it half made.
    if errand.side == Side::Responder {
        meeting.hear(CREATED)?;
    }
    by_value!(errand.cell.bytes, [8, 56, 64, 256, 1024],
    N => {
        let (publisher, subscribers) = ports!(errand, node, [u8; N]);
        let (mut outlet, mut inlets) = acquainted(errand, meeting, &node, publisher, subscribers)?;
        let part = || meeting.part(errand.side);
        match &mut inlets.0[..] {
            [inlet] => play(errand, &mut Small::<N>, &mut outlet, inlet, part),
            _ => play(errand, &mut Small::<N>, &mut outlet, &mut inlets, part),
        }
    },
    else {
        let len = errand.cell.bytes;
        let (publisher, subscribers) =
                ports!(errand, node, [u8], initial_max_slice_len(len));
        let (mut outlet, mut inlets) = acquainted(errand, meeting, &node, publisher, subscribers)?;
        let part = || meeting.part(errand.side);
        match &mut inlets.0[..] {
            [inlet] => play(errand, &mut Large::new(len), &mut outlet, inlet, part),
            _ => play(errand, &mut Large::new(len), &mut outlet, &mut inlets, part),
        }
    })
}

fn node(meeting: &Meeting) -> Result<Node<ipc::Service>, BenchError> {
    let root = meeting.path("iceoryx2");
    let root = Path::new(root.as_os_str().as_encoded_bytes())
        .map_err(BenchError::rival("iceoryx2 root path"))?;
    let mut config = Config::default();
    config.global.set_root_path(&root);
    NodeBuilder::new()
        .config(&config)
        .signal_handling_mode(SignalHandlingMode::Disabled)
        .create::<ipc::Service>()
        .map_err(BenchError::rival("iceoryx2 node"))
}

fn service_name(name: &str) -> Result<ServiceName, BenchError> {
    ServiceName::new(name).map_err(BenchError::rival("iceoryx2 service name"))
}

/// What a publisher does with a subscriber whose buffer is full.
fn retry(info: &iceoryx2::port::BackpressureInfo) -> BackpressureAction {
    std::hint::spin_loop();
    if info.elapsed_time > PATIENCE {
        BackpressureAction::DiscardDataAndFail
    } else {
        BackpressureAction::Retry
    }
}

struct Sending<P: Debug + IceoryxSend + ?Sized + 'static> {
    publisher: Publisher<ipc::Service, P, ()>,
    bell: Option<Notifier<ipc::Service>>,
}

struct Receiving<P: Debug + IceoryxSend + ?Sized + 'static> {
    subscriber: Subscriber<ipc::Service, P, ()>,
    bell: Option<Listener<ipc::Service>>,
}

/// The ends, once each side's ports know the other's: a subscriber completes a connection only
/// with its first look, and what was published before that may be dropped.
fn acquainted<P: Debug + IceoryxSend + ?Sized + 'static>(
    errand: &Errand,
    meeting: &Meeting,
    node: &Node<ipc::Service>,
    publisher: Publisher<ipc::Service, P, ()>,
    subscribers: Vec<Subscriber<ipc::Service, P, ()>>,
) -> Result<(Sending<P>, Crowd<Receiving<P>>), BenchError>
where
    Publisher<ipc::Service, P, ()>: UpdateConnections,
    Subscriber<ipc::Service, P, ()>: UpdateConnections,
{
    let bells = if errand.spins() { None } else { Some(bells(errand, node)?) };
    if errand.side == Side::Initiator {
        meeting.tell(CREATED, "")?;
    }
    let (notifier, listener) = bells.unzip();
    let wait_for_other = |what: &str| {
        let note = |side: Side| format!("{what}-{}", side.as_str());
        meeting.tell(&note(errand.side), "")?;
        meeting.hear(&note(errand.side.other()))
    };
    wait_for_other("made")?;
    publisher.update_connections().map_err(BenchError::rival("update_connections"))?;
    wait_for_other("offered")?;
    for subscriber in &subscribers {
        subscriber.update_connections().map_err(BenchError::rival("update_connections"))?;
    }
    wait_for_other("ready")?;
    // Where the first reader has a message, the others have it, too.
    let mut listener = listener;
    let inlets =
        subscribers.into_iter().map(|subscriber| Receiving { subscriber, bell: listener.take() });
    Ok((Sending { publisher, bell: notifier }, Crowd(inlets.collect())))
}

fn bells(
    errand: &Errand,
    node: &Node<ipc::Service>,
) -> Result<(Notifier<ipc::Service>, Listener<ipc::Service>), BenchError> {
    let (there, back) = match errand.side {
        Side::Initiator => ("ping", "pong"),
        Side::Responder => ("pong", "ping"),
    };
    let service = |name| {
        let builder = node.service_builder(&service_name(name)?).event();
        builder.open_or_create().map_err(BenchError::rival("iceoryx2 event"))
    };
    let notifier = service(there)?.notifier_builder().create();
    let listener = service(back)?.listener_builder().create();
    Ok((
        notifier.map_err(BenchError::rival("iceoryx2 notifier"))?,
        listener.map_err(BenchError::rival("iceoryx2 listener"))?,
    ))
}

impl<P: Debug + IceoryxSend + ?Sized + 'static> Sending<P> {
    /// Checks that a sample was delivered, and wakes who sleeps.
    #[inline(always)]
    fn delivered<E: Debug>(&self, sent: Result<usize, E>) -> Result<(), BenchError> {
        match sent.map_err(BenchError::rival("iceoryx2 send"))? {
            0 => Err(BenchError::Peer(PATIENCE)),
            _ => match &self.bell {
                None => Ok(()),
                Some(bell) => {
                    bell.notify().map(|_| ()).map_err(BenchError::rival("iceoryx2 notify"))
                }
            },
        }
    }
}

impl<const N: usize> Outlet<N> for Sending<[u8; N]> {
    #[inline(always)]
    fn put(&mut self, message: [u8; N]) -> Result<(), BenchError> {
        let sample = self.publisher.loan_uninit().map_err(BenchError::rival("iceoryx2 loan"))?;
        self.delivered(sample.write_payload(message).send())
    }
}

impl LargeOutlet for Sending<[u8]> {
    #[inline(always)]
    fn put_large(&mut self, buffer: &mut [u8], number: u64) -> Result<(), BenchError> {
        let sample = self
            .publisher
            .loan_slice_uninit(buffer.len())
            .map_err(BenchError::rival("iceoryx2 loan"))?;
        self.delivered(filled(sample, number).send())
    }
}

/// Waits for a sample as this end waits.
macro_rules! next {
    ($end:expr) => {{
        let mut idle = Idle::default();
        let mut since = None;
        loop {
            let sample = $end.subscriber.receive();
            if let Some(sample) = sample.map_err(BenchError::rival("iceoryx2 receive"))? {
                break sample;
            }
            match &$end.bell {
                None => idle.spin()?,
                Some(bell) => {
                    // It may return without an event, long before the time is over.
                    let since = *since.get_or_insert_with(Instant::now);
                    let heard = bell.timed_wait(|_| {}, PATIENCE);
                    heard.map_err(BenchError::rival("iceoryx2 wait"))?;
                    if since.elapsed() > PATIENCE {
                        return Err(BenchError::Peer(PATIENCE));
                    }
                }
            }
        }
    }};
}

impl<const N: usize> Inlet<N> for Receiving<[u8; N]> {
    #[inline(always)]
    fn take(&mut self, expected: u64) -> Result<Seen, BenchError> {
        let sample: Sample<ipc::Service, [u8; N], ()> = next!(self);
        judge(sample.payload(), N, expected)
    }
}

impl LargeInlet for Receiving<[u8]> {
    #[inline(always)]
    fn take_large(&mut self, buffer: &mut [u8], expected: u64) -> Result<Seen, BenchError> {
        let sample: Sample<ipc::Service, [u8], ()> = next!(self);
        judge(sample.payload(), buffer.len(), expected)
    }
}
