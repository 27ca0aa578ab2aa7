// Command fanout is the limit of an agent written with grpc-go: it sends one message to every stream that is opened,
// whatever the method, and the same message again at each SIGUSR1.
//
//	fanout SOCKET MESSAGE-FILE
package main

import (
	"log"
	"net"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"google.golang.org/grpc"
)

// bytes passes messages that are encoded already.
type bytes struct{}

func (bytes) Name() string                  { return "bytes" }
func (bytes) Marshal(v any) ([]byte, error) { return v.([]byte), nil }
func (bytes) Unmarshal([]byte, any) error   { return nil }

// bell wakes everybody who waits for its next ring.
type bell struct {
	mutex sync.Mutex
	next  chan struct{}
}

func (b *bell) wait() <-chan struct{} {
	b.mutex.Lock()
	defer b.mutex.Unlock()
	return b.next
}

func (b *bell) ring() {
	b.mutex.Lock()
	defer b.mutex.Unlock()
	close(b.next)
	b.next = make(chan struct{})
}

func main() {
	message, err := os.ReadFile(os.Args[2])
	if err != nil {
		log.Fatal(err)
	}
	listener, err := net.Listen("unix", os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	if err := os.Chmod(os.Args[1], 0o777); err != nil {
		log.Fatal(err)
	}
	bell := &bell{next: make(chan struct{})}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGUSR1)
	go func() {
		for range signals {
			bell.ring()
		}
	}()
	serve := func(_ any, stream grpc.ServerStream) error {
		for {
			rings := bell.wait()
			if err := stream.SendMsg(message); err != nil {
				return err
			}
			select {
			case <-rings:
			case <-stream.Context().Done():
				return stream.Context().Err()
			}
		}
	}
	server := grpc.NewServer(grpc.ForceServerCodec(bytes{}), grpc.UnknownServiceHandler(serve))
	log.Fatal(server.Serve(listener))
}
