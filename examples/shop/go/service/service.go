// Package service is what orders, payment and shipping have in common: settings, log lines of JSON, health, and an orderly end.
package service

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Name is the service's; set it before anything else.
var Name = "service"

var out sync.Mutex

// Fields are a log line's further keys.
type Fields map[string]any

// Log writes one line of JSON to stdout.
func Log(level, message string, fields Fields) {
	line := Fields{"time": time.Now().UTC().Format(time.RFC3339Nano), "level": level, "service": Name, "message": message}
	for key, value := range fields {
		if err, ok := value.(error); ok {
			value = err.Error()
		}
		line[key] = value
	}
	out.Lock()
	defer out.Unlock()
	_ = json.NewEncoder(os.Stdout).Encode(line)
}

// Setting is a variable of the environment, or the default. Without a default it must be there.
func Setting(name, standard string) string {
	value, found := os.LookupEnv(name)
	if !found {
		value = standard
	}
	if value == "" {
		Log("error", "setting is missing", Fields{"name": name})
		os.Exit(2)
	}
	return value
}

// Duration is a setting such as "1.5s".
func Duration(name, standard string) time.Duration {
	value, err := time.ParseDuration(Setting(name, standard))
	if err != nil {
		Log("error", "setting is no duration", Fields{"name": name, "error": err})
		os.Exit(2)
	}
	return value
}

// Secret is the content of the file that the setting names.
func Secret(name string) string {
	data, err := os.ReadFile(Setting(name, ""))
	if err != nil {
		Log("error", "secret can't be read", Fields{"error": err})
		os.Exit(2)
	}
	return strings.TrimSpace(string(data))
}

// UUID is a random one.
func UUID() string {
	var b [16]byte
	if _, err := rand.Read(b[:]); err != nil {
		panic(err)
	}
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// Until repeats what fails until it succeeds or ctx ends.
func Until(ctx context.Context, what string, try func() error) bool {
	for ctx.Err() == nil {
		err := try()
		if err == nil {
			return true
		}
		Log("warning", what+" isn't there yet", Fields{"error": err})
		Sleep(ctx, 500*time.Millisecond)
	}
	return false
}

// Sleep waits; false if ctx ended before.
func Sleep(ctx context.Context, time_ time.Duration) bool {
	timer := time.NewTimer(time_)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// JSON answers with a body.
func JSON(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body)
}

// Context is done at SIGTERM or SIGINT.
func Context() context.Context {
	ctx, _ := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	return ctx
}

// Serve answers until ctx ends; then it lets requests finish. `ready` tells what is missing, nil if nothing.
//
// With the argument "-healthy" the program asks a running instance of itself instead: the image has no other program for a health check.
func Serve(ctx context.Context, mux *http.ServeMux, ready func(context.Context) error) {
	mux.HandleFunc("/livez", func(w http.ResponseWriter, _ *http.Request) {
		host, _ := os.Hostname()
		JSON(w, http.StatusOK, Fields{"service": Name, "host": host, "kernel": kernel(), "language": "Go"})
	})
	mux.HandleFunc("/readyz", func(w http.ResponseWriter, r *http.Request) {
		limited, cancel := context.WithTimeout(r.Context(), 2*time.Second)
		defer cancel()
		err := ctx.Err() // an instance that ends takes no more work
		if err == nil {
			err = ready(limited)
		}
		if err != nil {
			JSON(w, http.StatusServiceUnavailable, Fields{"ready": false, "error": err.Error()})
			return
		}
		JSON(w, http.StatusOK, Fields{"ready": true})
	})
	server := &http.Server{Addr: ":" + port(), Handler: logged(mux), ReadHeaderTimeout: 10 * time.Second}
	ended := make(chan struct{})
	go func() {
		<-ctx.Done()
		limited, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		_ = server.Shutdown(limited)
		close(ended)
	}()
	Log("info", "listening", Fields{"port": port()})
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		Log("error", "can't listen", Fields{"error": err})
		os.Exit(1)
	}
	<-ended
	Log("info", "ended", nil)
}

// Healthy ends the program, as a health check, if its argument asks for that.
func Healthy() {
	if len(os.Args) < 2 || os.Args[1] != "-healthy" {
		return
	}
	client := http.Client{Timeout: 3 * time.Second}
	answer, err := client.Get("http://127.0.0.1:" + port() + "/readyz")
	if err != nil || answer.StatusCode != http.StatusOK {
		fmt.Fprintln(os.Stderr, "not ready:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func port() string { return Setting("PORT", "8000") }

func kernel() string {
	data, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	return strings.TrimSpace(string(data))
}

type recorder struct {
	http.ResponseWriter
	status int
}

func (r *recorder) WriteHeader(status int) {
	r.status = status
	r.ResponseWriter.WriteHeader(status)
}

func logged(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/livez" || r.URL.Path == "/readyz" {
			next.ServeHTTP(w, r)
			return
		}
		if r.Header.Get("X-Request-ID") == "" {
			r.Header.Set("X-Request-ID", UUID())
		}
		began, seen := time.Now(), &recorder{w, http.StatusOK}
		next.ServeHTTP(seen, r)
		Log("info", "request", Fields{"request_id": r.Header.Get("X-Request-ID"), "method": r.Method, "path": r.URL.Path,
			"status": seen.status, "milliseconds": float64(time.Since(began).Microseconds()) / 1000})
	})
}
