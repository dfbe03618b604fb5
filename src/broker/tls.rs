//! What nats-server says about a link whose TLS does not come about, in a sentence.

/// What is wrong and what helps, where a line is about that.
pub(super) fn trouble(line: &str) -> Option<(&'static str, &'static str)> {
    let handshake = line.contains("handshake error") || line.contains("x509:");
    if !handshake || line.contains("[INF]") {
        return None;
    }
    let says = |words: &str| line.contains(words);
    Some(if says("unknown authority") {
        (
            "the certificate of the other side is not signed by an authority that is believed here",
            "give the depot its site file from roadcall site add again, or the hub a certificate of that authority",
        )
    } else if says("has expired or is not yet valid") {
        (
            "the certificate of the other side is expired or not valid yet",
            "renew it (roadcall auth init --renew), or set this box's clock",
        )
    } else if says("is valid for")
        || says("doesn't contain any IP SANs")
        || says("not valid for any names")
    {
        (
            "the certificate of the other side is for other names than the one in hub.url",
            "make one for that name (roadcall auth init --name NAME), or use a name that it has",
        )
    } else if says("protocol version") || says("unsupported versions") {
        (
            "the other side speaks no TLS 1.3",
            "nothing older is spoken here; bring the other side up to date",
        )
    } else if says("bad certificate") || says("unknown certificate") {
        (
            "the other side does not believe this box's certificate",
            "its log says why",
        )
    } else if says("first record does not look like a TLS handshake") || says("EOF") {
        (
            "the other side does not speak TLS",
            "give the depot its site file from roadcall site add again, or set tls.cert_file at the hub",
        )
    } else {
        (
            "TLS with the other side does not come about",
            "the server's words say why",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_trouble_has_its_sentence() {
        // As nats-server 2.15.1 says them.
        let before = "[14705] 2026/11/27 13:06:31.738755 [ERR] 127.0.0.1:14722 - lid:5 - TLS leafnode handshake error: tls: failed to \
            verify certificate: ";
        for (words, expected) in [
            (
                "x509: certificate signed by unknown authority",
                "authority that is believed",
            ),
            (
                "x509: certificate has expired or is not yet valid: current time",
                "expired",
            ),
            (
                "x509: certificate is valid for 10.0.0.1, not 127.0.0.1",
                "other names",
            ),
        ] {
            let (what, _) = trouble(&format!("{before}{words}")).expect("a trouble");
            assert!(what.contains(expected), "{what}");
        }
        let closed = "[1] 2026/11/27 13:06:33 [INF] 127.0.0.1:43548 - lid:8 - Leafnode connection closed: TLS Handshake Failure";
        assert_eq!(trouble(closed), None);
        assert_eq!(trouble("[1] [ERR] something else"), None);
    }
}
