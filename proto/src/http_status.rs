//! Conversion of HTTP statuses to gRPC codes, for answers of servers that do not speak gRPC.

/// Converts an HTTP status other than 200, in an answer without a gRPC status, to the number of a gRPC code. Specified
/// (gRPC, *HTTP to gRPC Status Code Mapping*).
#[must_use]
pub const fn code_of_http(status: u16) -> i32 {
    match status {
        400 => 13,                   // INTERNAL
        401 => 16,                   // UNAUTHENTICATED
        403 => 7,                    // PERMISSION_DENIED
        404 => 12,                   // UNIMPLEMENTED
        429 | 502 | 503 | 504 => 14, // UNAVAILABLE
        _ => 2,                      // UNKNOWN
    }
}

#[cfg(all(test, feature = "services"))]
mod tests {
    use tonic::Code;

    use super::*;

    #[test]
    fn statuses_of_http_have_the_codes_that_grpc_gives_them() {
        for (status, expected) in [
            (400, Code::Internal),
            (401, Code::Unauthenticated),
            (403, Code::PermissionDenied),
            (404, Code::Unimplemented),
            (429, Code::Unavailable),
            (500, Code::Unknown),
            (502, Code::Unavailable),
            (503, Code::Unavailable),
            (504, Code::Unavailable),
            (204, Code::Unknown),
        ] {
            assert_eq!(Code::from_i32(code_of_http(status)), expected, "{status}");
        }
    }
}
