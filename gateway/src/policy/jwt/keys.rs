//! Key pairs for tests only.

pub(crate) const EC_PRIVATE: &str = "\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgHt5lG+gIrG3N4uS3
2R+6z+ZizOMNWozv0Ivtn+GmlQmhRANCAATuIXxoLrExvh/fAefZSZRc92ebstRX
QAcyYN/oofMT3UZkJvZ5Dh3cBFXPbuZ67HaUq3eToRObjXhpVw9VkoTp
-----END PRIVATE KEY-----
";
pub(crate) const EC_PUBLIC: &str = "\
-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE7iF8aC6xMb4f3wHn2UmUXPdnm7LU
V0AHMmDf6KHzE91GZCb2eQ4d3ARVz27meux2lKt3k6ETm414aVcPVZKE6Q==
-----END PUBLIC KEY-----
";
pub(crate) const RSA_PRIVATE: &str = "\
-----BEGIN PRIVATE KEY-----
MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQDJF7a4EbmvSUi3
2Rm3Ny9hfjqQ30ZfrrSOlCOf/M8d54T//8TnYXEJb9lqoB20Xpf//E2ieObrkcmA
pGriiwMc1GV7dhD7CKg+gRzMAURzXnGgT5NsYyxB8Cg/z6gtFEW0nbP7HrI2YHyj
kTjXZeoF1IDmXFP6PBc3e/fV8gRWcuhv/djSfFVPkIYwG7UPFaoGPdx5hn6H9oPZ
xmr7guN+6+em3B5gLogKM6UKffM14GLZvN/ot/bXy2kwQlSNbozE8SDvY6uDTsuY
tF0DrXLTrLGpgfcmdmFl1lzT/o8W0l8ZJFkbBrTHIkjDBcf+S/qXMumZ6h2IuPxf
fz9CbRghAgMBAAECggEAEC70oUUp6qms7MDP0T8jdMbmGzUg0n/6n3PcFxrPJ1Kz
0S9qDw34PSBvgKWApnyrYmpRbCcrPF+X9h6lTHSQDFCqlyBGFxHYCmm1IdTjR56c
6eAlluY3UFotvw7s863LO1EqxCWxBW/H8Bj2mF0nE4+JzSA2kO+nlatII4Nt5nAF
z1yezb4pWoH17G7gCSSXoHXmD97S/IfqUof0OBVwiEmImiYncw1zLDpgztLLq/lb
JP/rjIdrAEJgmCmKJXXNkwUwRTem/8Ph9fVgrZIzwWuMvAPNyGAt/LJdVQNc3D8O
wdb+baqd/bfmDX3vCHALv7na1tHKOKOLt/FUHOOeMQKBgQD2uN+V7EgkTMb8SkS2
1wrk1aauqilzxeoSZxhEsis/0P6UDFdq++s1X1EFRAC+oJz5h8RNl+2QPgHla9X3
7YX8QwsApv+OJ3Q/No8ThtfhOtHH40Pj3NEafP1yFD5L+G7Kdb4EsZ44Uu+cSwPd
JeEI0qXBvAnE3NleBUVXbBpWWQKBgQDQp5PPxkFwBEnvtfeWbqpAiJ/j70hSyGls
m+MzhfhqNj3z/NGtQPTpVQHnqXuXfWTARTbtkaaXM+BDAQEEkKuJ7U/vs3sr9eTT
0HeyjMv9r0PFeihjiTtZoHkBTPx90dxzk7KeNJ8F0tb175fJ2JJZFEgbkOnesxe5
ErEDswynCQKBgQCsPTQZvfI/JTplNpPx8P4x8tWCali18h0O69oNWzTGQGj5ggQl
M+loQTqWqnq6mfX8XcO1R7MZV7CLMVUW2EMJcORleDBAVVraJoSL5T8ghaeeHBJx
KN7x1wA4e9lhv/XYcYpOTJFgUMXmHph78s2/Ew+UyGkpfeRhttxJw7Y/QQKBgGCM
OiwZK6xef6vIwoC8QlFMJtf8n7WWgJm95DqyEglrge1FHeySMwFI0XHVjZfCcP06
ybjR/YjXezzl2Qe4vXc79RIQNb1YsYKFYu2eksGW+MAGz2uHU4wcYgGFEwxRMDXW
sP7dkHvMXKU+MTk32jgX12nR+zWOHzsG+BujHQapAoGAA95mhBurnIlWh1rghfSN
7saZF4Hv+VGcUX7MwYCXG/ZFZ2PMZmlAxwmbSeB5eaUifYPbzgAzBwSgHxlgr1c8
p/4CY09ooG9kRr7Qe6WWFEFGGJgelsKGIR3Lf8u5MHXnRMlDZsD9yEkA29567cBN
I+ndrv43aIgYp7TNp7iEBT0=
-----END PRIVATE KEY-----
";
pub(crate) const RSA_PUBLIC: &str = "\
-----BEGIN PUBLIC KEY-----
MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAyRe2uBG5r0lIt9kZtzcv
YX46kN9GX660jpQjn/zPHeeE///E52FxCW/ZaqAdtF6X//xNonjm65HJgKRq4osD
HNRle3YQ+wioPoEczAFEc15xoE+TbGMsQfAoP8+oLRRFtJ2z+x6yNmB8o5E412Xq
BdSA5lxT+jwXN3v31fIEVnLob/3Y0nxVT5CGMBu1DxWqBj3ceYZ+h/aD2cZq+4Lj
fuvnptweYC6ICjOlCn3zNeBi2bzf6Lf218tpMEJUjW6MxPEg72Org07LmLRdA61y
06yxqYH3JnZhZdZc0/6PFtJfGSRZGwa0xyJIwwXH/kv6lzLpmeodiLj8X38/Qm0Y
IQIDAQAB
-----END PUBLIC KEY-----
";
/// Both public keys as a key set (RFC 7517).
pub(crate) const SET: &str = r#"{"keys":[
    {"kty":"EC","crv":"P-256","use":"sig","kid":"ec","x":"7iF8aC6xMb4f3wHn2UmUXPdnm7LUV0AHMmDf6KHzE90","y":"RmQm9nkOHdwEVc9u5nrsdpSrd5OhE5uNeGlXD1WShOk"},
    {"kty":"RSA","use":"sig","kid":"rsa","e":"AQAB","n":"yRe2uBG5r0lIt9kZtzcvYX46kN9GX660jpQjn_zPHeeE___E52FxCW_ZaqAdtF6X__xNonjm65HJgKRq4osDHNRle3YQ-wioPoEczAFEc15xoE-TbGMsQfAoP8-oLRRFtJ2z-x6yNmB8o5E412XqBdSA5lxT-jwXN3v31fIEVnLob_3Y0nxVT5CGMBu1DxWqBj3ceYZ-h_aD2cZq-4LjfuvnptweYC6ICjOlCn3zNeBi2bzf6Lf218tpMEJUjW6MxPEg72Org07LmLRdA61y06yxqYH3JnZhZdZc0_6PFtJfGSRZGwa0xyJIwwXH_kv6lzLpmeodiLj8X38_Qm0YIQ"}
]}"#;
/// The private key of another pair, for tests of rotation.
pub(crate) const NEXT_PRIVATE: &str = "\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgJ6tua4fyJD5nTwJF
z+Nq6FizKhJ9VvuXbGP3Wv1FBdihRANCAARL6r08CmHxn1ogpLa4A3/WHUa1rhWB
jpapJ4xyRlfBtTn2mBT9QTD/QtLIUdhHxyy+QHpqZ6O118TeWO/vTRgf
-----END PRIVATE KEY-----
";
/// A key set with the public key of that pair, a key of an unsupported kind, and an encryption key.
pub(crate) const NEXT_SET: &str = r#"{"keys":[
    {"kty":"AKP","alg":"ML-DSA-44","kid":"later","pub":"AAAA"},
    {"kty":"EC","crv":"P-256","use":"enc","kid":"ec","x":"7iF8aC6xMb4f3wHn2UmUXPdnm7LUV0AHMmDf6KHzE90","y":"RmQm9nkOHdwEVc9u5nrsdpSrd5OhE5uNeGlXD1WShOk"},
    {"kty":"EC","crv":"P-256","use":"sig","kid":"next","x":"S-q9PAph8Z9aIKS2uAN_1h1Gta4VgY6WqSeMckZXwbU","y":"OfaYFP1BMP9C0shR2EfHLL5Aempno7XXxN5Y7-9NGB8"}
]}"#;
