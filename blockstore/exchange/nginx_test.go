package exchange_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// nginxConfig is a server of one directory: with sendfile over HTTP, with its own TLS over HTTPS.
const nginxConfig = `
daemon off;
master_process off;
pid %[1]s/pid;
error_log stderr crit;
events {}
http {
	access_log off;
	sendfile on;
	tcp_nopush on;
	client_body_temp_path %[1]s/tmp; proxy_temp_path %[1]s/tmp; fastcgi_temp_path %[1]s/tmp; uwsgi_temp_path %[1]s/tmp; scgi_temp_path %[1]s/tmp;
	server {
		listen %[2]s%[3]s;
		ssl_certificate %[1]s/cert.pem;
		ssl_certificate_key %[1]s/key.pem;
		ssl_protocols TLSv1.3;
		root %[1]s/www;
	}
}
`

// benchNginx fetches one large file from nginx and hashes it, 1 MiB at a time.
func benchNginx(b *testing.B, blocks int, secure bool) {
	b.Helper()
	program, err := exec.LookPath("nginx")
	if err != nil {
		b.Skip("needs nginx: apt-get install nginx-light")
	}
	dir := b.TempDir()
	roots := certify(b, dir)
	if err := os.MkdirAll(filepath.Join(dir, "www"), 0o755); err != nil {
		b.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil { // who is not root there reads it
		b.Fatal(err)
	}
	size := int64(blocks) << 20
	f, err := os.Create(filepath.Join(dir, "www", "large"))
	if err != nil {
		b.Fatal(err)
	}
	if _, err := io.CopyN(f, rand.Reader, size); err != nil {
		b.Fatal(err)
	}
	f.Close()
	addr := freeAddr(b)
	scheme, option := "http", ""
	if secure {
		scheme, option = "https", " ssl"
	}
	config := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(config, fmt.Appendf(nil, nginxConfig, dir, addr, option), 0o600); err != nil {
		b.Fatal(err)
	}
	server := exec.Command(program, "-c", config, "-p", dir)
	server.Stderr = os.Stderr
	if err := server.Start(); err != nil {
		b.Fatal(err)
	}
	stop := func() float64 {
		_ = server.Process.Signal(syscall.SIGTERM) // it may have ended
		_ = server.Wait()
		return (server.ProcessState.UserTime() + server.ProcessState.SystemTime()).Seconds()
	}
	defer stop()
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}}
	defer client.CloseIdleConnections()
	fetch := func() error {
		resp, err := client.Get(scheme + "://" + addr + "/large")
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		block := make([]byte, 1<<20)
		for range blocks {
			if _, err := io.ReadFull(resp.Body, block); err != nil {
				return err
			}
			sha256.Sum256(block)
		}
		return nil
	}
	for range 500 { // until it listens
		c, err := net.Dial("tcp", addr)
		if err == nil {
			c.Close()
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	b.SetBytes(size)
	before := cpu()
	for b.Loop() {
		if err := fetch(); err != nil {
			b.Fatal(err)
		}
	}
	report(b, before-stop(), size, 0)
}

// freeAddr returns an address on loopback that nobody listens on.
func freeAddr(b *testing.B) string {
	b.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

// certify writes a certificate for loopback, and returns who trusts it.
func certify(b *testing.B, dir string) *x509.CertPool {
	b.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA: true, BasicConstraintsValid: true,
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		b.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		b.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{
		"cert.pem": {Type: "CERTIFICATE", Bytes: cert},
		"key.pem":  {Type: "PRIVATE KEY", Bytes: private},
	} {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			b.Fatal(err)
		}
	}
	parsed, err := x509.ParseCertificate(cert)
	if err != nil {
		b.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(parsed)
	return pool
}
