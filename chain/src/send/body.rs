//! Bodies of HTTP answers, up to a bound. **The server is not trusted**: neither is the length that it states.

/// The reason for which a body was not read.
#[derive(Debug, thiserror::Error)]
pub enum AnswerBodyError {
    /// It is longer than the caller allows.
    #[error("the answer is too long")]
    TooLong,
    /// The connection failed. The error does not have the URL, which may contain a secret.
    #[error(transparent)]
    Broken(reqwest::Error),
}

/// Reads a body of at most `len_bytes_max` bytes.
///
/// # Errors
/// Fails when the body is longer, or ends early.
pub async fn read_body(
    mut answer: reqwest::Response,
    len_bytes_max: usize,
) -> Result<Vec<u8>, AnswerBodyError> {
    if answer.content_length().is_some_and(|len| len > len_bytes_max as u64) {
        return Err(AnswerBodyError::TooLong);
    }
    let broken = |error: reqwest::Error| AnswerBodyError::Broken(error.without_url());
    let mut body = Vec::new();
    while let Some(piece) = answer.chunk().await.map_err(broken)? {
        if piece.len() > len_bytes_max - body.len() {
            return Err(AnswerBodyError::TooLong);
        }
        body.extend_from_slice(&piece);
    }
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_body_is_read_up_to_its_bound() {
        let answer = |len: usize| reqwest::Response::from(http::Response::new(vec![1_u8; len]));
        assert_eq!(read_body(answer(10), 10).await.unwrap(), vec![1; 10]);
        let longer = read_body(answer(11), 10).await.unwrap_err();
        assert!(matches!(longer, AnswerBodyError::TooLong), "{longer}");
    }
}
