//! ipc-channel: its channels of bytes, which do not serialise.
//!
//! Practice: the other side's ends travel over a one-shot server; a spinning end polls.

use ipc_channel::TryRecvError;
use ipc_channel::ipc::{
    IpcBytesReceiver, IpcBytesSender, IpcOneShotServer, IpcSender, bytes_channel,
};

use super::meeting::Meeting;
use super::{Errand, play_shaped};
use crate::error::BenchError;
use crate::message::{Idle, Seen, fill, judge};
use crate::ports::{Inlet, LargeInlet, LargeOutlet, Outlet};
use crate::task::{Answer, Side};

/// The note with the server's name.
const SERVER: &str = "server";

/// Two channels, one for each way.
pub(crate) fn serve(errand: &Errand, meeting: &Meeting) -> Result<Answer, BenchError> {
    let (sender, receiver) = match errand.side {
        Side::Responder => {
            let (server, name) = IpcOneShotServer::<(IpcBytesReceiver, IpcBytesSender)>::new()
                .map_err(BenchError::io("IpcOneShotServer"))?;
            meeting.tell(SERVER, &name)?;
            let (_, (receiver, sender)) =
                server.accept().map_err(BenchError::rival("IpcOneShotServer::accept"))?;
            (sender, receiver)
        }
        Side::Initiator => {
            let name = meeting.hear(SERVER)?;
            let (ping, pinged) = bytes_channel().map_err(BenchError::io("bytes_channel"))?;
            let (pong, ponged) = bytes_channel().map_err(BenchError::io("bytes_channel"))?;
            IpcSender::connect(name)
                .map_err(BenchError::io("IpcSender::connect"))?
                .send((pinged, pong))
                .map_err(BenchError::rival("IpcSender::send"))?;
            (ping, ponged)
        }
    };
    let (mut outlet, mut inlet) =
        (Sending { sender }, Receiving { receiver, spins: errand.spins() });
    play_shaped!(errand, &mut outlet, &mut inlet, || meeting.part(errand.side))
}

#[derive(Debug)]
struct Sending {
    sender: IpcBytesSender,
}

#[derive(Debug)]
struct Receiving {
    receiver: IpcBytesReceiver,
    spins: bool,
}

impl Receiving {
    #[inline(always)]
    fn next(&mut self) -> Result<Vec<u8>, BenchError> {
        if !self.spins {
            return self.receiver.recv().map_err(BenchError::rival("IpcBytesReceiver::recv"));
        }
        let mut idle = Idle::default();
        loop {
            match self.receiver.try_recv() {
                Ok(bytes) => return Ok(bytes),
                Err(TryRecvError::Empty) => idle.spin()?,
                Err(error) => return Err(BenchError::rival("IpcBytesReceiver::try_recv")(error)),
            }
        }
    }
}

impl<const N: usize> Outlet<N> for Sending {
    #[inline(always)]
    fn put(&mut self, message: [u8; N]) -> Result<(), BenchError> {
        self.sender.send(&message).map_err(BenchError::io("IpcBytesSender::send"))
    }
}

impl LargeOutlet for Sending {
    #[inline(always)]
    fn put_large(&mut self, buffer: &mut [u8], number: u64) -> Result<(), BenchError> {
        fill(buffer, number);
        self.sender.send(buffer).map_err(BenchError::io("IpcBytesSender::send"))
    }
}

impl<const N: usize> Inlet<N> for Receiving {
    #[inline(always)]
    fn take(&mut self, expected: u64) -> Result<Seen, BenchError> {
        judge(&self.next()?, N, expected)
    }
}

impl LargeInlet for Receiving {
    #[inline(always)]
    fn take_large(&mut self, buffer: &mut [u8], expected: u64) -> Result<Seen, BenchError> {
        judge(&self.next()?, buffer.len(), expected)
    }
}
