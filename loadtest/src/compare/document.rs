//! The resources that comparisons write.

/// Appends a resource of `bytes` bytes with the members of an order. Its stamp
/// has the number as the sequence.
pub fn resource(out: &mut Vec<u8>, number: u64, bytes: usize) {
    let (start, customer, sku) = (out.len(), number * 7919 % 50_000, number * 31 % 1000);
    let state = ["CREATED", "PROCESSING", "SHIPPED"][(number % 3) as usize];
    let text = format!(
        "{{\"id\":\"r{number}\",\"status\":\"{state}\",\"customer\":\"customer-{customer}\",\
         \"total\":{}.95,\"items\":[{{\"sku\":\"sku-{sku}\",\"quantity\":2}}],\
         \"w\":0,\"s\":{number},\"t\":0,\"note\":\"",
        number % 1000
    );
    out.extend_from_slice(text.as_bytes());
    let end = start + bytes.saturating_sub(2);
    out.resize(end.max(out.len()), b'x');
    out.extend_from_slice(b"\"}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stamp::EventStamp;

    #[test]
    fn a_resource_is_json_of_its_size_with_a_stamp() {
        let mut text = Vec::new();
        resource(&mut text, 999_999, 250);
        assert_eq!(text.len(), 250);
        let read: serde_json::Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(read["id"], "r999999");
        assert_eq!(
            EventStamp::read(&text),
            Some(EventStamp { publisher: 0, sequence: 999_999, due: 0 })
        );
    }
}
