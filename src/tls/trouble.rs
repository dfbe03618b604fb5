//! Why a handshake did not come about, in a sentence.

use std::error::Error as Cause;

use rustls::{AlertDescription as Alert, CertificateError as Wrong, Error};

/// tokio-rustls' words for a connection that ends in the middle of a handshake.
const HANDSHAKE_EOF: &str = "tls handshake eof";
const ENDED: &str =
    "the other side ended the handshake: it may speak no TLS 1.3, and nothing older is spoken here";

/// What is wrong with TLS, where an error, or what it came from, is about that.
#[must_use]
pub fn trouble(error: &(dyn Cause + 'static)) -> Option<&'static str> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(found) = error.downcast_ref::<Error>() {
            return Some(sentence(found));
        }
        // What an I/O error holds is not its source, but in its place.
        let held = error.downcast_ref::<std::io::Error>();
        if let Some(held) = held.and_then(std::io::Error::get_ref) {
            if held.to_string() == HANDSHAKE_EOF {
                return Some(ENDED);
            }
            let held: &(dyn Cause + 'static) = held;
            return trouble(held);
        }
        cause = error.source();
    }
    None
}

fn sentence(error: &Error) -> &'static str {
    match error {
        Error::AlertReceived(Alert::ProtocolVersion) | Error::PeerIncompatible(_) => {
            "the other side speaks no TLS 1.3, and nothing older is spoken here"
        }
        Error::AlertReceived(Alert::HandshakeFailure) => ENDED,
        Error::AlertReceived(_) => "the other side refuses the handshake",
        Error::InvalidCertificate(Wrong::UnknownIssuer | Wrong::BadSignature) => {
            "the other side's certificate is not signed by an authority that is believed here (tls.ca_file names one's own)"
        }
        Error::InvalidCertificate(Wrong::Expired | Wrong::ExpiredContext { .. }) => {
            "the other side's certificate has expired"
        }
        Error::InvalidCertificate(Wrong::NotValidYet | Wrong::NotValidYetContext { .. }) => {
            "the other side's certificate is not valid yet, or this box's clock is behind"
        }
        Error::InvalidCertificate(
            Wrong::NotValidForName | Wrong::NotValidForNameContext { .. },
        ) => "the other side's certificate is for other names than the one in the address",
        Error::InvalidCertificate(_) => "the other side's certificate is not to be believed",
        Error::InvalidMessage(_) => "the other side does not speak TLS",
        _ => "TLS with the other side does not come about",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_is_found_however_deep_it_is() {
        #[derive(Debug, thiserror::Error)]
        #[error("outer")]
        struct Outer(#[source] std::io::Error);
        let inner = Error::InvalidCertificate(Wrong::Expired);
        let error = Outer(std::io::Error::other(std::io::Error::other(inner)));
        let found = trouble(&error).expect("found");
        assert!(found.contains("expired"), "{found}");
        let eof = std::io::Error::new(std::io::ErrorKind::UnexpectedEof, HANDSHAKE_EOF);
        assert_eq!(trouble(&Outer(eof)), Some(ENDED));
        assert_eq!(trouble(&Outer(std::io::Error::other("else"))), None);
    }
}
