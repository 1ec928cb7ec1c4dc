//! The certificates of one API server: its own authority, its serving certificate, an
//! administrator's, and the key that signs ServiceAccount tokens.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

/// Files below one directory.
pub(super) struct Pki {
    directory: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

impl Pki {
    /// Creates all of them. The server will be reached at `addresses`.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub(super) fn create(directory: &Path, addresses: &[IpAddr]) -> Result<Self> {
        fs::create_dir(directory).context("failed to make the directory of certificates")?;
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "portcullis-tests");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        fs::write(directory.join("ca.crt"), params.self_signed(&key)?.pem())?;
        fs::write(directory.join("ca.key"), key.serialize_pem())?;
        let pki = Self { directory: directory.to_owned(), issuer: Issuer::new(params, key) };

        let names: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        let mut server = CertificateParams::new(names)?;
        server.distinguished_name.push(DnType::CommonName, "kube-apiserver");
        server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        pki.issue("server", &server)?;
        // The group that RBAC never refuses.
        pki.issue_client("admin", "admin", Some("system:masters"))?;

        let tokens = KeyPair::generate()?;
        fs::write(pki.file("tokens.key"), tokens.serialize_pem())?;
        fs::write(pki.file("tokens.pub"), tokens.public_key_pem())?;
        Ok(pki)
    }

    /// The path of one file.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// A client certificate, in the files `file`.crt and `file`.key, of a user and its group.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub(super) fn issue_client(&self, file: &str, user: &str, group: Option<&str>) -> Result<()> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, user);
        if let Some(group) = group {
            params.distinguished_name.push(DnType::OrganizationName, group);
        }
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.issue(file, &params)
    }

    fn issue(&self, name: &str, params: &CertificateParams) -> Result<()> {
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        fs::write(self.file(&format!("{name}.crt")), certificate.pem())?;
        fs::write(self.file(&format!("{name}.key")), key.serialize_pem())?;
        Ok(())
    }
}
