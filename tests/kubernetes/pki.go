package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"flag"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// pkiMain writes the cluster CA, every certificate and every kubeconfig.
//
//	kubernetes pki -dir D -server https://IP:6443 -sans IP,NAME -nodes n1=IP,n2=IP
func pkiMain(args []string) error {
	fs := flag.NewFlagSet("pki", flag.ExitOnError)
	dir := fs.String("dir", "pki", "output directory")
	server := fs.String("server", "", "URL of the API server, for the kubeconfigs")
	sans := fs.String("sans", "", "comma-separated names and addresses of the API server")
	nodes := fs.String("nodes", "", "comma-separated NAME=ADDRESS")
	fs.Parse(args)
	if err := os.MkdirAll(*dir, 0o755); err != nil {
		return err
	}
	p := &pki{dir: *dir, server: *server}
	if err := p.loadOrMakeCA(); err != nil {
		return err
	}
	// The service account key is RSA because every verifier accepts RS256.
	if _, err := os.Stat(filepath.Join(*dir, "sa.key")); err != nil {
		k, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			return err
		}
		pub, err := x509.MarshalPKIXPublicKey(k.Public())
		if err != nil {
			return err
		}
		p.write("sa.key", pemBlock("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(k)), 0o600)
		p.write("sa.pub", pemBlock("PUBLIC KEY", pub), 0o644)
	}
	p.cert("apiserver", "kube-apiserver", nil, split(*sans))
	p.cert("kubelet-client", "kube-apiserver-kubelet-client", []string{"system:masters"}, nil)
	for name, id := range map[string][]string{
		"admin":              {"admin", "system:masters"},
		"controller-manager": {"system:kube-controller-manager"},
		"scheduler":          {"system:kube-scheduler"},
		"proxy":              {"system:kube-proxy"},
	} {
		p.cert(name, id[0], id[1:], nil)
		p.kubeconfig(name)
	}
	for _, n := range split(*nodes) {
		name, addr, _ := strings.Cut(n, "=")
		p.cert("node-"+name, "system:node:"+name, []string{"system:nodes"}, nil)
		p.kubeconfig("node-" + name)
		p.cert("kubelet-"+name, name, nil, []string{name, addr, "127.0.0.1", "localhost"})
	}
	return p.err
}

type pki struct {
	dir, server string
	ca          *x509.Certificate
	caPEM       []byte
	key         *ecdsa.PrivateKey
	err         error
}

func (p *pki) loadOrMakeCA() error {
	if b, err := os.ReadFile(filepath.Join(p.dir, "ca.crt")); err == nil {
		kb, err := os.ReadFile(filepath.Join(p.dir, "ca.key"))
		if err != nil {
			return err
		}
		c, _ := pem.Decode(b)
		k, _ := pem.Decode(kb)
		if c == nil || k == nil {
			return fmt.Errorf("ca.crt or ca.key is not PEM")
		}
		p.caPEM = b
		if p.ca, err = x509.ParseCertificate(c.Bytes); err != nil {
			return err
		}
		p.key, err = x509.ParseECPrivateKey(k.Bytes)
		return err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	t := template("signet-test-ca", nil)
	t.IsCA, t.BasicConstraintsValid = true, true
	t.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature
	t.ExtKeyUsage = nil
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		return err
	}
	if p.ca, err = x509.ParseCertificate(der); err != nil {
		return err
	}
	p.key, p.caPEM = key, pemBlock("CERTIFICATE", der)
	p.write("ca.crt", p.caPEM, 0o644)
	p.write("ca.key", ecPEM(key), 0o600)
	return p.err
}

func template(cn string, org []string) *x509.Certificate {
	serial, _ := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	return &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: cn, Organization: org},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().AddDate(1, 0, 0),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
}

func (p *pki) cert(name, cn string, org, sans []string) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		p.err = err
		return
	}
	t := template(cn, org)
	for _, s := range sans {
		if ip := net.ParseIP(s); ip != nil {
			t.IPAddresses = append(t.IPAddresses, ip)
		} else {
			t.DNSNames = append(t.DNSNames, s)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, t, p.ca, crypto.PublicKey(key.Public()), p.key)
	if err != nil {
		p.err = err
		return
	}
	p.write(name+".crt", pemBlock("CERTIFICATE", der), 0o644)
	p.write(name+".key", ecPEM(key), 0o600)
}

func (p *pki) kubeconfig(name string) {
	b64 := func(f string) string {
		b, err := os.ReadFile(filepath.Join(p.dir, f))
		if err != nil {
			p.err = err
		}
		return base64.StdEncoding.EncodeToString(b)
	}
	p.write(name+".kubeconfig", []byte(fmt.Sprintf(`apiVersion: v1
kind: Config
clusters:
- {name: test, cluster: {server: %q, certificate-authority-data: %s}}
users:
- {name: %s, user: {client-certificate-data: %s, client-key-data: %s}}
contexts:
- {name: test, context: {cluster: test, user: %s}}
current-context: test
`, p.server, base64.StdEncoding.EncodeToString(p.caPEM), name, b64(name+".crt"), b64(name+".key"), name)), 0o600)
}

func (p *pki) write(name string, b []byte, mode os.FileMode) {
	if err := os.WriteFile(filepath.Join(p.dir, name), b, mode); err != nil {
		p.err = err
	}
}

func pemBlock(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

func ecPEM(k *ecdsa.PrivateKey) []byte {
	der, _ := x509.MarshalECPrivateKey(k)
	return pemBlock("EC PRIVATE KEY", der)
}

func split(s string) []string {
	return strings.FieldsFunc(s, func(r rune) bool { return r == ',' })
}
